// One person through the pages that the other tests do not come by: the console's settings and bridges, the pages about
// e-mail, the card under a link, and the page for the code of a device without a camera.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { generateKeyPairSync, randomUUID, sign } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer as createPage } from "node:http";
import { connect, createServer as createSocket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { binary, freePorts, keepEvidence, obstacles, openBrowser, pictures, root, skipReason, startClaimed, until } from "./lib.mjs";

const skip = skipReason();
const dir = mkdtempSync(join(tmpdir(), "holdfast-pages-"));
let password = "lantern orbit maple 4";
let server, ada, site, mail, hallProgram;

before(async () => {
    if (skip) return;
    mail = await mailServer();
    site = createPage((_, res) => res.end(`<html><head><title>Minutes</title><meta property="og:title" content="Minutes of the council"><meta property="og:description" content="What was decided"></head></html>`));
    await new Promise((ok) => site.listen(0, "127.0.0.1", ok));
    server = await startClaimed("ada", password, ["--set", "network.allow_private=true", "--set", "public_url=http://localhost:{http}"]); // providers that people sign in with are on this machine
    ada = await openBrowser("ada");
});

after(async () => {
    await ada?.browser.close();
    hallProgram?.kill();
    site?.close();
    mail?.close();
    if (server) assert.equal(await server.stop(), "exit code 0", "the server must stop cleanly");
    rmSync(dir, { recursive: true, force: true });
});

// mailServer takes mail as a server on this machine does, without TLS and a login (RFC 5321), and keeps it.
async function mailServer() {
    const taken = [];
    const socket = createSocket((c) => {
        let data;
        let message = {};
        const say = (line) => c.write(`${line}\r\n`);
        say("220 mail.test");
        createInterface({ input: c, crlfDelay: Infinity }).on("line", (line) => {
            if (data) {
                if (line !== ".") return data.push(line.replace(/^\.\./, "."));
                const [head, ...body] = data.join("\n").split("\n\n");
                // Quoted-printable, as the program writes it.
                const bytes = body.join("\n\n").replace(/=\n/g, "").replace(/=([0-9A-F]{2})/g, (_, h) => String.fromCharCode(parseInt(h, 16)));
                taken.push({ ...message, subject: /^Subject: (.*)$/m.exec(head)?.[1], text: Buffer.from(bytes, "latin1").toString() });
                data = undefined;
                return say("250 taken");
            }
            const verb = line.slice(0, 4).toUpperCase();
            if (verb === "EHLO") return say("250 mail.test");
            if (verb === "MAIL") message = {};
            if (verb === "RCPT") message.to = /<(.*)>/.exec(line)?.[1];
            if (verb === "DATA") {
                data = [];
                return say("354 go on");
            }
            if (verb === "QUIT") return c.end("221 bye\r\n");
            return say("250 ok");
        });
        c.on("error", () => undefined);
    });
    await new Promise((ok) => socket.listen(0, "127.0.0.1", ok));
    return { port: socket.address().port, close: () => socket.close(), next: (what) => until(what, () => taken.shift()) };
}

// directoryServer is a real LDAP server, Debian's slapd, with these people; set gives it others.
async function directoryServer(names) {
    const [port] = await freePorts(1);
    const home = join(dir, "slapd");
    const ids = new Map();
    let slapd;
    const stop = async () => {
        if (!slapd) return;
        const gone = new Promise((ok) => slapd.once("exit", ok));
        slapd.kill("SIGKILL");
        await gone;
    };
    const set = async (people) => {
        await stop();
        rmSync(home, { recursive: true, force: true });
        mkdirSync(join(home, "db"), { recursive: true });
        writeFileSync(join(home, "slapd.conf"), `${["core", "cosine", "inetorgperson"].map((s) => `include /etc/ldap/schema/${s}.schema`).join("\n")}
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
dbnosync
suffix "dc=hall"
rootdn "cn=admin,dc=hall"
rootpw "the reader"
directory ${home}/db
`);
        const entry = (dn, ...lines) => [`dn: ${dn}`, ...lines, ""].join("\n");
        writeFileSync(join(home, "all.ldif"), [entry("dc=hall", "objectClass: dcObject", "objectClass: organization", "o: Hall", "dc: hall"), ...people.map((n) => {
            if (!ids.has(n)) ids.set(n, randomUUID());
            return entry(`uid=${n},dc=hall`, "objectClass: inetOrgPerson", `uid: ${n}`, `cn: ${n}`, `sn: ${n}`, `entryUUID: ${ids.get(n)}`, "userPassword: of the hall");
        })].join("\n"));
        const loaded = spawnSync("/usr/sbin/slapadd", ["-f", join(home, "slapd.conf"), "-l", join(home, "all.ldif")], { encoding: "utf8" });
        assert.equal(loaded.status, 0, loaded.stderr);
        slapd = spawn("/usr/sbin/slapd", ["-f", join(home, "slapd.conf"), "-h", `ldap://127.0.0.1:${port}`, "-d", "0"], { stdio: "ignore" });
        await until("slapd answers", () => new Promise((ok) => {
            const c = connect(port, "127.0.0.1", () => { c.destroy(); ok(true); });
            c.on("error", () => ok(false));
        }));
    };
    await set(names);
    return { url: `ldap://127.0.0.1:${port}`, set, stop };
}

// openIDProvider is a provider where Frida signed in ten minutes ago. It asks her only if it is told to.
async function openIDProvider() {
    const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
    const part = (x) => Buffer.from(JSON.stringify(x)).toString("base64url");
    const waiting = new Map();
    let proved = Math.floor(Date.now() / 1000) - 600;
    const web = createPage((q, r) => {
        const at = `http://127.0.0.1:${web.address().port}`;
        const url = new URL(q.url, at);
        const json = (x) => r.setHeader("content-type", "application/json").end(JSON.stringify(x));
        if (url.pathname === "/.well-known/openid-configuration") return json({ issuer: at, authorization_endpoint: `${at}/auth`, token_endpoint: `${at}/token`, jwks_uri: `${at}/keys`, id_token_signing_alg_values_supported: ["RS256"] });
        if (url.pathname === "/keys") return json({ keys: [{ ...publicKey.export({ format: "jwk" }), kid: "k", use: "sig", alg: "RS256" }] });
        if (url.pathname === "/auth") {
            const p = url.searchParams;
            if (p.get("prompt") === "login" && q.method !== "POST") return r.setHeader("content-type", "text/html").end(`<title>Town Hall</title><form method="post"><button>I am Frida</button></form>`);
            if (q.method === "POST") proved = Math.floor(Date.now() / 1000);
            const code = randomUUID();
            waiting.set(code, { nonce: p.get("nonce"), aud: p.get("client_id"), auth_time: proved });
            return r.writeHead(303, { location: `${p.get("redirect_uri")}?${new URLSearchParams({ code, state: p.get("state") })}` }).end();
        }
        let body = "";
        q.on("data", (d) => (body += d));
        q.on("end", () => {
            const now = Math.floor(Date.now() / 1000);
            const text = `${part({ alg: "RS256", kid: "k" })}.${part({ iss: at, sub: "1", iat: now, exp: now + 60, preferred_username: "frida", name: "Frida", ...waiting.get(new URLSearchParams(body).get("code")) })}`;
            json({ access_token: "x", token_type: "Bearer", id_token: `${text}.${sign("sha256", text, privateKey).toString("base64url")}` });
        });
    });
    await new Promise((ok) => web.listen(0, "127.0.0.1", ok));
    return { issuer: `http://127.0.0.1:${web.address().port}`, close: () => web.close() };
}

function command(...args) {
    return commandWith(undefined, ...args);
}

function commandWith(input, ...args) {
    const r = spawnSync(binary, [...args, "--data", server.data], { encoding: "utf8", cwd: dir, input });
    assert.equal(r.status, 0, r.stderr);
    return r.stdout;
}

async function api(method, path, body, token) {
    const r = await fetch(`${server.base}${path}`, { method, headers: { ...(body ? { "content-type": "application/json" } : {}), ...(token ? { authorization: `Bearer ${token}` } : {}) }, body: body && JSON.stringify(body) });
    const json = await r.json();
    assert.ok(r.ok, `${method} ${path}: ${r.status} ${JSON.stringify(json)}`);
    return json;
}

// step is one part of the story: later parts make no sense when one failed.
let failed = false;
function step(name, run) {
    test(name, { skip, timeout: 180_000 }, async (t) => {
        if (failed) return t.skip("an earlier step failed");
        try {
            await run(ada.page);
        } catch (e) {
            failed = true;
            await keepEvidence(`pages-${name.replace(/\W+/g, "-")}`, [ada]);
            throw e;
        }
    });
}

async function signIn(p) {
    await p.locator("#username").fill("ada");
    await p.locator("#password").fill(password);
    await p.locator("form:has(#password) button[type=submit]").click();
}

step("the console's settings: mail, files, previews", async (p) => {
    await p.goto(`${server.base}/console/settings`);
    await p.getByRole("link", { name: "Sign in" }).or(p.getByRole("button", { name: "Sign in" })).click();
    await signIn(p);
    // Mail: what cannot be is said in the form; then a message goes out.
    await p.getByTestId("mail-change").click();
    const [nobody] = await freePorts(1);
    await p.getByTestId("mail-security").selectOption("none");
    await p.getByTestId("mail-host").fill("127.0.0.1");
    await p.getByTestId("mail-port").fill(String(nobody));
    await p.getByTestId("mail-from").fill("not an address");
    await p.getByTestId("mail-save").click();
    await p.getByRole("dialog").getByRole("alert").waitFor();
    assert.deepEqual(await obstacles(p), []);
    await p.getByTestId("mail-from").fill("chat@demo.example");
    await p.getByTestId("mail-port").fill(String(mail.port));
    await p.getByTestId("mail-save").click();
    await p.getByTestId("mail-save").waitFor({ state: "detached" });
    await p.getByText(`127.0.0.1:${mail.port}`).waitFor();
    await p.getByTestId("mail-to").fill("admin@demo.example");
    await p.getByTestId("mail-test").click();
    assert.equal((await mail.next("the test message")).to, "admin@demo.example");

    // Files: an error stands at its field, the rest is kept; what was saved is there again.
    await p.getByTestId("files-max_upload").fill("much");
    await p.getByTestId("files-quota").fill("2G");
    await p.getByTestId("files-save").click();
    await until("the error is at the field", () => p.getByTestId("files-max_upload").evaluate((e) => e.getAttribute("aria-invalid") === "true" && !!e.closest(".hf-field").querySelector(".hf-error").textContent));
    assert.equal(await p.getByTestId("files-quota").inputValue(), "2G");
    await p.getByTestId("files-max_upload").fill("7M");
    await p.getByTestId("files-save").click();
    await p.getByText("The rules hold from now on").waitFor();

    // Previews.
    await p.getByTestId("previews-on").click();
    await p.getByTestId("previews-private").fill("not/a/host");
    await p.getByTestId("previews-save").click();
    await until("the error is at the field", () => p.getByTestId("previews-private").evaluate((e) => e.getAttribute("aria-invalid") === "true"));
    await p.getByTestId("previews-private").fill("127.0.0.1");
    await p.getByTestId("previews-save").click();
    await until("the rules are kept", async () => (await p.getByTestId("previews-private").getAttribute("aria-invalid")) !== "true");
    await p.reload();
    await p.getByTestId("previews-private").waitFor();
    assert.equal(await p.getByTestId("previews-private").inputValue(), "127.0.0.1");
    assert.equal(await p.getByTestId("files-max_upload").inputValue(), "7M");
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "console-settings");
});

step("the console's bridges: one that is away, and its end", async (p) => {
    const [nobody] = await freePorts(1);
    await p.goto(`${server.base}/console/bridges`);
    await p.getByText("No bridges or bots yet").waitFor();
    command("appservice", "generate", "irc", "--url", `http://127.0.0.1:${nobody}`, "--rooms", ".*", "--add");
    await p.getByTestId("bridges").getByText("Nothing sent yet").waitFor();
    // Something for it: it is away, and that is said, with what waits.
    const { access_token } = await api("POST", "/_matrix/client/v3/login", { type: "m.login.password", identifier: { type: "m.id.user", user: "ada" }, password });
    await api("POST", "/_matrix/client/v3/createRoom", { preset: "public_chat", name: "Council" }, access_token);
    await p.getByTestId("bridges").getByText("Away since").waitFor();
    await until("what waits is counted", async () => /\d+ messages wait/.test(await p.getByTestId("bridges").innerText()));
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "console-bridges");
    await p.getByRole("button", { name: "Send now" }).click();
    await p.getByText("What waits for irc is sent now").waitFor();
    await p.getByRole("button", { name: "Remove" }).click();
    await p.getByTestId("confirm").click();
    await p.getByText("No bridges or bots yet").waitFor();
});

step("the console's navigation: by mouse, by keyboard, on a phone", async (p) => {
    await p.goto(`${server.base}/console/status`);
    const links = p.locator("nav a");
    await links.last().waitFor();
    const names = await links.allInnerTexts();
    assert.ok(names.length > 10 && new Set(names).size === names.length, names.join());
    for (const name of names) {
        await p.locator("nav").getByRole("link", { name, exact: true }).click();
        await p.locator("nav a[aria-current=page]").getByText(name, { exact: true }).waitFor();
        await p.locator("main h1").first().waitFor();
        assert.equal(await p.evaluate(() => document.activeElement?.id), "console-main", "the keyboard goes on in the page");
        assert.ok(await p.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${name} is wider than the window`);
    }
    // The first stop of the keyboard leaps over the navigation.
    await p.goto(`${server.base}/console/groups`);
    await p.locator("h1").waitFor();
    await p.keyboard.press("Tab");
    await p.getByRole("link", { name: "Skip to the page" }).waitFor();
    await p.keyboard.press("Enter");
    await p.keyboard.press("Tab");
    assert.ok(await p.evaluate(() => !!document.activeElement.closest("main")), "it did not leap");
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "console-nav");
    // Where there is no room for a column, a button opens it.
    const wide = p.viewportSize();
    await p.setViewportSize({ width: 390, height: 844 });
    try {
        assert.ok(await p.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "a phone has to scroll sideways");
        assert.equal(await links.first().isVisible(), false);
        const open = p.locator("nav").getByRole("button");
        await open.click();
        assert.equal(await open.getAttribute("aria-expanded"), "true");
        assert.deepEqual(await obstacles(p), []);
        await pictures(p, "console-nav-open");
        await links.last().focus();
        await p.keyboard.press("Escape");
        assert.equal(await links.first().isVisible(), false);
        assert.ok(await open.evaluate((b) => b === document.activeElement), "the focus is lost");
        await open.click();
        await p.locator("nav").getByRole("link", { name: "Applications" }).click();
        await p.locator("h1").getByText("Applications").waitFor();
        assert.equal(await links.first().isVisible(), false, "it stays open over the page");
    } finally {
        await p.setViewportSize(wide);
    }
});

step("the console's groups, applications, directories and audit log", async (p) => {
    command("user", "add", "otto", "--name", "Otto", "--password", "walnut river 9");
    await p.goto(`${server.base}/console/groups`);
    await p.getByTestId("group-new").click();
    await p.getByLabel("Name of the group").fill("a, b");
    await p.getByTestId("group-make").click();
    await p.getByText("no commas").waitFor();
    await p.getByLabel("Name of the group").fill("Watch");
    await p.getByTestId("group-make").click();
    await p.getByTestId("groups").getByText("Watch").waitFor();
    await p.getByRole("button", { name: "0 people" }).click();
    await p.getByLabel("User ID").fill("@otto:demo.example");
    await p.getByTestId("member-add").click();
    await p.getByTestId("members").getByText("@otto:demo.example").waitFor();
    await p.keyboard.press("Escape");
    await p.getByRole("button", { name: "1 person" }).waitFor();
    await p.getByTestId("groups").getByRole("button", { name: "Roles" }).click();
    await p.getByTestId("role-auditor").click();
    await p.getByTestId("groups").getByText("Auditor").waitFor({ state: "attached" });
    await p.keyboard.press("Escape");
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "console-groups");

    // Who is in the group is put into a room, which says how far it is; and out again with the rule.
    const { access_token: token } = await api("POST", "/_matrix/client/v3/login", { type: "m.login.password", identifier: { type: "m.id.user", user: "ada" }, password });
    const { room_id: room } = await api("POST", "/_matrix/client/v3/createRoom", { name: "Night watch", preset: "private_chat" }, token);
    const members = async () => Object.keys((await api("GET", `/_matrix/client/v3/rooms/${encodeURIComponent(room)}/joined_members`, undefined, token)).joined);
    await p.getByTestId("groups").getByRole("button", { name: "Rooms" }).click();
    await p.getByText("Nobody is put into a room").waitFor();
    await p.getByTestId("grouproom-new").click();
    await p.getByRole("textbox", { name: "Its address" }).fill("#nowhere:demo.example");
    await p.getByTestId("grouproom-make").click();
    await p.getByText("no such room here").waitFor();
    await p.getByTestId("grouproom-room").selectOption(room);
    await p.getByTestId("grouproom-level").selectOption("50");
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "console-grouprooms-new");
    await p.getByTestId("grouproom-make").click();
    await p.getByTestId("grouprooms").getByText("1 of 1 in it").waitFor();
    await p.getByTestId("grouprooms").getByText("Level 50").waitFor();
    assert.deepEqual((await members()).sort(), ["@ada:demo.example", "@otto:demo.example"]);
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "console-grouprooms");
    await p.getByTestId("grouprooms").getByRole("button", { name: "Remove" }).click();
    await p.getByTestId("grouproom-out").click();
    await pictures(p, "console-grouprooms-remove");
    await p.getByTestId("confirm").click();
    await until("otto is out of the room", async () => (await members()).length === 1);
    await p.keyboard.press("Escape");

    // An application: its secret is shown once, a second one can be made, the first removed.
    await p.goto(`${server.base}/console/apps`);
    await p.getByTestId("app-new").click();
    await p.getByTestId("app-template").selectOption("grafana");
    await p.getByLabel("Name", { exact: true }).fill("Charts");
    await p.getByTestId("app-make").click();
    await p.getByText("needs the address of the application").waitFor();
    await p.getByLabel("Its address").fill("https://charts.demo.example");
    await p.getByLabel("Groups that may use it").fill("Watch");
    await p.getByTestId("app-make").click();
    const secretOf = async () => /hcs_[\w-]+/.exec(await p.getByTestId("app-made").innerText())?.[0];
    const first = await until("the secret is shown", secretOf);
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "console-apps");
    await p.getByRole("button", { name: "Secrets" }).click();
    await p.getByTestId("secret-new").click();
    await until("another secret is shown", async () => (await secretOf()) !== first);
    await p.getByRole("button", { name: "Secrets" }).click();
    await p.getByTestId("secrets").getByRole("button", { name: "Remove" }).first().click();
    await until("one secret is left", async () => (await p.getByTestId("secrets").locator("li").count()) === 1);
    await p.keyboard.press("Escape");
    await p.reload();
    await p.getByTestId("apps").getByText("For Watch").waitFor();
    // Its group is removed, and a new one of the same name is not taken for it.
    command("group", "add", "Night");
    await p.getByTestId("apps").getByRole("button", { name: "Groups that may use it" }).click();
    await p.getByLabel("Groups that may use it").fill("Day");
    await p.getByTestId("app-groups").click();
    await p.getByText("There is no group").waitFor();
    await p.getByLabel("Groups that may use it").fill("night");
    await p.getByTestId("app-groups").click();
    await p.getByTestId("apps").getByText("For Night").waitFor();
    command("group", "remove", "Night");
    command("group", "add", "Night");
    await p.reload();
    await p.getByTestId("apps").getByText("Nobody may use it").waitFor();
    await p.getByTestId("apps").getByRole("button", { name: "Groups that may use it" }).click();
    await p.getByText("nobody may use it, also not by a new group").waitFor();
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "console-apps-gone");
    command("group", "remove", "Night");
    await p.getByLabel("Groups that may use it").fill("Watch");
    await p.getByTestId("app-groups").click();
    await p.getByTestId("apps").getByText("For Watch").waitFor();
    assert.equal(await p.getByTestId("app-made").count(), 0, "the secret is not shown again");
    // The group gets another name, by which the application knows it; what follows is said before.
    await p.goto(`${server.base}/console/groups`);
    const watch = p.getByTestId("groups").locator("li").filter({ hasText: "Watch" });
    await watch.getByRole("button", { name: "Rooms" }).click();
    await p.getByTestId("grouproom-new").click();
    await p.getByTestId("grouproom-room").selectOption(room);
    await p.getByTestId("grouproom-make").click();
    await p.getByTestId("grouprooms").getByText("Night watch").waitFor();
    await p.keyboard.press("Escape");
    await watch.getByRole("button", { name: "Rename" }).click();
    await p.getByText("know it by the new name at once: Charts.").waitFor();
    await p.getByText("rooms and spaces: Night watch.").waitFor();
    await p.getByLabel("Name of the group").fill("Watch, night");
    await p.getByTestId("group-rename").click();
    await p.getByText("no commas").waitFor();
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "console-group-rename");
    await p.getByLabel("Name of the group").fill("Guards");
    await p.getByTestId("group-rename").click();
    await p.getByTestId("groups").getByText("Guards").waitFor();
    await pictures(p, "console-group-renamed");
    await p.goto(`${server.base}/console/apps`);
    await p.getByTestId("apps").getByText("For Guards").waitFor();
    // Where it is told of sign-outs, with an authority of its own.
    await p.getByTestId("apps").getByRole("button", { name: "Sign-outs" }).click();
    await p.getByLabel("Address for sign-outs").fill("https://charts.demo.example/logout");
    await p.getByLabel("Certificate authority").fill("x");
    await p.getByTestId("app-logout").click();
    await p.getByText("one or more certificates in PEM").waitFor();
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "console-apps-logout");
    const authority = await (await fetch(`${server.base}/ca.crt`)).text();
    await p.getByLabel("Certificate authority").fill(authority);
    await p.getByTestId("app-logout").click();
    await p.getByTestId("app-logout").waitFor({ state: "detached" });
    await p.reload();
    await p.getByTestId("apps").getByRole("button", { name: "Sign-outs" }).click();
    assert.equal(await p.getByLabel("Certificate authority").inputValue(), authority.trim());
    await p.keyboard.press("Escape");
    await p.getByTestId("key-next").click();
    await p.getByTestId("keys").getByText("Next").waitFor();

    // A directory that does not answer says so.
    const [nobody] = await freePorts(1);
    await p.goto(`${server.base}/console/directories`);
    await p.getByTestId("directory-new").click();
    await p.getByLabel("Short name").fill("Town!");
    await p.getByLabel("Servers").fill(`ldaps://127.0.0.1:${nobody}`);
    await p.getByLabel("Base DN").fill("dc=town");
    await p.getByTestId("directory-pictures").click();
    await p.getByLabel("Attribute with the picture").fill("thumbnailPhoto");
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "console-directories-new");
    await p.getByTestId("directory-save").click();
    await p.getByText("A directory's short name has").waitFor();
    await p.getByLabel("Short name").fill("town");
    await p.getByTestId("directory-save").click();
    await p.getByTestId("directory-town").getByText("Not read yet").waitFor();
    await p.getByTestId("directory-sync").click();
    await p.getByTestId("directory-town").getByText("Does not answer").waitFor();
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "console-directories");

    // A provider that does not answer says so, one that does as well; it goes with its people.
    const provider = createPage((q, r) => {
        r.setHeader("content-type", "application/json");
        const at = `http://127.0.0.1:${provider.address().port}`;
        r.end(JSON.stringify({ issuer: at, authorization_endpoint: `${at}/auth`, token_endpoint: `${at}/token`, jwks_uri: `${at}/keys`, id_token_signing_alg_values_supported: ["RS256"] }));
    });
    await new Promise((ok) => provider.listen(0, "127.0.0.1", ok));
    await p.goto(`${server.base}/console/upstreams`);
    await p.getByText("No providers yet").waitFor();
    await p.getByTestId("upstream-new").click();
    await p.getByLabel("Short name").fill("Town!");
    await p.getByLabel("Name on the button").fill("Town Hall");
    await p.getByLabel("Issuer").fill(`http://127.0.0.1:${nobody}`);
    await p.getByLabel("Client ID").fill("holdfast");
    await p.getByLabel("Client secret").fill("the secret of the town");
    await p.getByLabel("Groups", { exact: true }).fill("guards = Pirates");
    await pictures(p, "console-upstream-new");
    await p.getByTestId("upstream-save").click();
    await p.getByText("A provider's short name has").waitFor();
    await p.getByLabel("Short name").fill("town");
    await p.getByTestId("upstream-save").click();
    await p.getByText("there is no group").waitFor();
    await p.getByLabel("Groups", { exact: true }).fill("guards = Guards");
    assert.deepEqual(await obstacles(p), []);
    await p.getByTestId("upstream-save").click();
    const town = p.getByTestId("upstream-town");
    await town.getByText("Not asked yet").waitFor();
    await town.getByText("guards → Guards").waitFor();
    await town.getByText(`/upstream/town/callback`).waitFor();
    await p.getByTestId("upstream-test").click();
    await town.getByText("Does not answer").waitFor();
    await town.getByText("connection refused").waitFor();
    assert.deepEqual(await obstacles(p), []);
    await town.getByRole("button", { name: "Change" }).click();
    await p.getByLabel("Issuer").fill(`http://127.0.0.1:${provider.address().port}`);
    await p.getByTestId("upstream-save").click();
    await town.getByText("Not asked yet").waitFor();
    await p.getByTestId("upstream-test").click();
    await town.getByText("Answers", { exact: true }).waitFor();
    assert.doesNotMatch(await p.evaluate(async () => await (await fetch("/api/console/upstreams")).text()), /secret of the town/);
    await pictures(p, "console-upstreams");
    await town.getByRole("button", { name: "Remove" }).click();
    await p.getByText("Nobody signed in with it yet").waitFor();
    await p.getByText("The same, and who has no other way in is locked").click();
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "console-upstream-remove");
    await p.getByTestId("upstream-remove").click();
    await p.getByText("No providers yet").waitFor();
    provider.close();

    // One of SAML: its metadata come by their address, ours go there as a file. People come in, and signing out works
    // from both ends.
    hallProgram = spawn(join(root, "bin/tools/idp"), { stdio: ["pipe", "pipe", "inherit"] });
    const [there, steer] = (await once(createInterface({ input: hallProgram.stdout }), "line"))[0].split(" ");
    const signedInThere = async () => assert.ok((await fetch(`${steer}/person`, { method: "POST" })).ok);
    await p.getByTestId("upstream-new").click();
    await p.getByText("SAML 2.0").click();
    await p.getByLabel("Short name").fill("hall");
    await p.getByLabel("Name on the button").fill("City Hall");
    await p.getByTestId("upstream-save").click();
    await p.getByText("Give the provider's metadata").waitFor();
    await p.getByTestId("upstream-metadata-text").fill("<html></html>");
    await p.getByTestId("upstream-save").click();
    await p.getByText("The metadata cannot be used").waitFor();
    assert.deepEqual(await obstacles(p), []);
    await p.getByTestId("upstream-metadata-text").fill("");
    await p.getByLabel("Or the address of its metadata").fill(`${there}/metadata`);
    await pictures(p, "console-upstream-saml-new");
    await p.getByLabel("Groups", { exact: true }).fill("guards = Guards");
    await p.getByTestId("upstream-save").click();
    const hall = p.getByTestId("upstream-hall");
    await hall.getByText("Works from both ends").waitFor();
    await p.getByTestId("upstream-test").click();
    await hall.getByText("Answers", { exact: true }).waitFor();
    const [ours] = await Promise.all([p.waitForEvent("download"), p.getByTestId("upstream-metadata").click()]);
    assert.ok((await fetch(`${steer}/know`, { method: "POST", body: readFileSync(await ours.path()) })).ok);
    await hall.getByRole("button", { name: "Copy the certificate" }).click();
    assert.match(await p.evaluate(() => navigator.clipboard.readText()), /^-----BEGIN CERTIFICATE-----/);
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "console-upstream-saml");
    await hall.getByRole("button", { name: "Change" }).click(); // without new metadata it keeps what it has
    await p.getByText("The displayed name follows at each sign-in").click();
    await p.getByTestId("upstream-save").click();
    await hall.getByText("Works from both ends").waitFor();
    const dora = await ada.browser.newContext({ locale: "en-GB" });
    try {
        const q = await dora.newPage();
        const blocked = [];
        dora.on("console", (m) => /Content Security Policy/i.test(m.text()) && blocked.push(m.text()));
        const comes = async () => {
            await signedInThere();
            await q.goto(`${server.base}/login?next=/account`);
            await q.getByText("Sign in with City Hall").click();
            await q.getByText("@dora:demo.example").first().waitFor();
        };
        await comes();
        await q.goto(`${server.base}/logout`);
        await q.locator("button[type=submit]").first().click();
        await q.getByText("You are signed out").waitFor();
        assert.deepEqual(await (await fetch(`${steer}/ended`)).json(), ["dora"]);
        await comes();
        await q.goto(`${there}/out`);
        await q.goto(`${server.base}/account`);
        await q.locator("#username").waitFor();
        assert.deepEqual(blocked, []);
    } finally {
        await dora.close();
    }
    const gone = once(hallProgram, "exit");
    hallProgram.stdin.end();
    await gone;
    await p.getByTestId("upstream-test").click();
    await hall.getByText("Does not answer").waitFor();
    await hall.getByText("1 account").waitFor();
    await hall.getByRole("button", { name: "Remove" }).click();
    await p.getByText("1 of them have no other way in").waitFor();
    await p.getByTestId("upstream-remove").click();
    await p.getByText("No providers yet").waitFor();

    // All of it is in the log, which is whole.
    await p.goto(`${server.base}/console/audit`);
    for (const event of ["group.create Watch", "group.rename Watch", "app.create", "directory.set town", "upstream.set town", "upstream.remove town", "upstream.set hall", "upstream.remove hall"]) await p.getByTestId("audit").getByText(event).first().waitFor();
    await p.getByTestId("audit-verify").click();
    await p.getByText("It is whole, and as the appliance wrote it").waitFor();
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "console-audit");
    await p.getByTestId("audit-kind").selectOption("app");
    await until("only applications are listed", async () => !/group\.create/.test(await p.getByTestId("audit").innerText()) && /app\.secret\.add/.test(await p.getByTestId("audit").innerText()));
    const [download] = await Promise.all([p.waitForEvent("download"), p.getByTestId("audit-export").click()]);
    assert.equal(download.suggestedFilename(), "audit.jsonl");
    command("audit", "verify", "--file", await download.path());

    // Otto audits by his group: he sees all that, and can change none of it.
    const otto = await openBrowser("otto");
    try {
        const q = otto.page;
        await q.goto(`${server.base}/login?next=/console/audit`);
        await q.locator("#username").fill("otto");
        await q.locator("#password").fill("walnut river 9");
        await q.locator("button[type=submit]").click();
        await q.getByTestId("audit").getByText("app.create").waitFor();
        await q.getByText("You see what administrators see").waitFor();
        for (const page of ["people", "groups", "invites", "directories", "upstreams", "apps", "settings"]) {
            await q.goto(`${server.base}/console/${page}`);
            await q.locator("h1").waitFor();
            await until("the page is there", async () => !(await q.getByText("Only an administrator").count()));
            for (const b of ["New", "Remove", "Roles", "Lock", "Read now", "Save", "Set up", "Switch"]) {
                for (const button of await q.locator("main").getByRole("button", { name: b }).all()) assert.ok(await button.isDisabled(), `an auditor can press ${b} at ${page}`);
            }
        }
        await pictures(q, "console-auditor");
        command("role", "revoke", "auditor", "--group", "Guards");
        command("role", "grant", "moderator", "otto");
        await q.goto(`${server.base}/console/settings`);
        await q.getByText("You look after calls here").waitFor();
        assert.deepEqual(await q.locator("nav a").allInnerTexts(), ["Status", "People", "Calls"]);
        await pictures(q, "console-moderator");
    } finally {
        await otto.browser.close();
    }
});

step("a link in an open group has a card", async (p) => {
    command("previews", "set", "--ports", String(site.address().port));
    await p.goto(`${server.base}/?login`);
    await p.getByTestId("room-item").filter({ hasText: "Council" }).click({ timeout: 60_000 });
    const link = `http://127.0.0.1:${site.address().port}/minutes`;
    await p.getByTestId("composer").fill(`Read this: ${link}`);
    await p.keyboard.press("Enter");
    const card = p.getByTestId("linkcard");
    await card.waitFor();
    assert.match(await card.innerText(), /Minutes of the council[\s\S]*What was decided/);
    assert.equal(await card.getAttribute("href"), link);
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "linkcard");
});

step("an e-mail address is added, and brings a forgotten password back", async (p) => {
    await p.goto(`${server.base}/account`);
    await p.locator("#email").fill("ada@demo.example");
    await p.locator("form[action='/account/email'] button").click();
    const added = await mail.next("the message that proves the address");
    assert.equal(added.to, "ada@demo.example");
    const linkOf = (m) => /https?:\/\/\S+token=\S+/.exec(m.text)[0];
    await p.goto(linkOf(added));
    await p.getByText("Add ada@demo.example to your account").waitFor();
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "email-confirm");
    await p.locator("form[action='/account/email/confirm'] button").click();
    await p.locator("form[action='/account/email/remove']").getByText("ada@demo.example").waitFor();
    await p.goto(linkOf(added));
    await p.getByText("This link is not valid any more").waitFor();

    // Signed out, the sign-in page leads to the message.
    await ada.context.clearCookies();
    await p.goto(`${server.base}/account`);
    await p.locator("a[href^='/login/forgot']").click();
    await p.locator("#email").fill("ada@demo.example");
    assert.deepEqual(await obstacles(p), []);
    await p.locator("form[action='/login/forgot'] button").click();
    await p.getByText("Look at your e-mail").waitFor();
    const reset = linkOf(await mail.next("the message for a new password"));
    await p.goto(reset);
    await p.locator("#password").fill("harbour violin stone 9");
    await p.locator("#password2").fill("harbour violin stone 8");
    await p.locator("button[type=submit]").click();
    await p.locator("#problem").waitFor();
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "new-password");
    password = "harbour violin stone 9";
    await p.locator("#password").fill(password);
    await p.locator("#password2").fill(password);
    await p.locator("button[type=submit]").click();
    await p.getByText("Your password is set").waitFor();
    await p.goto(reset);
    assert.equal(await p.locator("#password").count(), 0, "a link for a new password works once");
});

step("the code of a device without a camera is typed", async (p) => {
    const meta = await api("GET", "/_matrix/client/v1/auth_metadata");
    const at = (url) => new URL(url).pathname;
    const { client_id } = await api("POST", at(meta.registration_endpoint), { client_name: "A meeting room", client_uri: "https://client.test/", application_type: "web", token_endpoint_auth_method: "none", grant_types: ["urn:ietf:params:oauth:grant-type:device_code", "refresh_token"] });
    const form = async (url, fields) => {
        const r = await fetch(`${server.base}${at(url)}`, { method: "POST", body: new URLSearchParams(fields) });
        return { status: r.status, ...(await r.json()) };
    };
    const asked = await form(meta.device_authorization_endpoint, { client_id, scope: "urn:matrix:client:api:* urn:matrix:client:device:ROOM12345" });
    assert.match(asked.user_code ?? JSON.stringify(asked), /^[A-Z]{4}-[A-Z]{4}$/);
    await p.goto(`${server.base}/link`);
    await signIn(p);
    await p.locator("#user_code").fill("BBBB-BBBB");
    await p.locator("button[type=submit]").click();
    await p.getByText("No device waits under this code").waitFor();
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "link-code");
    await p.locator("#user_code").fill(asked.user_code.toLowerCase().replace("-", " "));
    await p.locator("button[type=submit]").click();
    await p.getByText("A meeting room (client.test)").waitFor();
    await p.locator("button[value=yes]").click();
    await p.getByText("The device is being signed in").waitFor();
    const tokens = await form(meta.token_endpoint, { client_id, grant_type: "urn:ietf:params:oauth:grant-type:device_code", device_code: asked.device_code });
    assert.equal((await api("GET", "/_matrix/client/v3/account/whoami", undefined, tokens.access_token)).device_id, "ROOM12345");
    assert.deepEqual(ada.problems, []);
});

step("a directory that lost a fifth of its people waits for an answer", async (p) => {
    if (!existsSync("/usr/sbin/slapd")) {
        assert.notEqual(process.env.CI, "true", "this needs slapd");
        return;
    }
    const people = Array.from({ length: 10 }, (_, i) => `hall${i}`);
    const hall = await directoryServer(people);
    try {
        commandWith("the reader\n", "directory", "set", "hall", "--url", hall.url, "--base-dn", "dc=hall", "--bind-dn", "cn=admin,dc=hall", "--password-stdin", "--everyone");
        const states = () => JSON.parse(command("user", "list", "--json")).filter((u) => /^@hall/.test(u.user_id)).map((u) => u.state ?? u.status).join(" ");
        await p.goto(`${server.base}/console/directories`);
        const card = p.getByTestId("directory-hall");
        await card.getByTestId("directory-sync").click();
        await card.getByText("10 there, 10 with an account here").waitFor();
        const before = states();

        await hall.set(people.slice(3));
        await card.getByTestId("directory-sync").click();
        await card.getByRole("alert").getByText("3 people of the 10 with accounts are gone or disabled there. Nothing was changed.").waitFor();
        await p.mouse.move(0, 0); // the button under it fades
        await until("the button is itself again", async () => !(await card.locator("[data-pending]").count()));
        assert.deepEqual(await obstacles(p), []);
        await card.scrollIntoViewIfNeeded();
        await pictures(p, "console-directory-alarm");
        // Who would go is named. Whoever refuses leaves it as it is, and is asked again.
        const look = async () => {
            await card.getByRole("button", { name: "Look at it" }).click();
            await p.getByRole("alertdialog").or(p.getByRole("dialog")).getByText("hall0, hall1, hall2").waitFor();
        };
        await look();
        assert.deepEqual(await obstacles(p), []);
        await pictures(p, "console-directory-approve");
        await p.getByRole("button", { name: "Cancel" }).click();
        await card.getByRole("alert").waitFor();
        assert.equal(states(), before, "what was refused is not done");
        await look();
        await p.getByTestId("confirm").click();
        await card.getByText("hall0, hall1, hall2").waitFor();
        assert.equal(await card.getByRole("alert").count(), 0);
        assert.equal(states().split(" ").filter((s) => s === before.split(" ")[0]).length, 7, states());
        await pictures(p, "console-directory-approved");
        // Who comes back is let in.
        await hall.set(people);
        await card.getByTestId("directory-sync").click();
        await card.getByText("Unlocked").waitFor();
        assert.equal(states(), before);
    } finally {
        await hall.stop();
    }
});

step("who has no password confirms at the other provider who they are", async () => {
    const town = await openIDProvider();
    commandWith("the secret\n", "upstream", "add", "hall", "--issuer", town.issuer, "--client-id", "holdfast", "--name", "Town Hall", "--secret-stdin");
    const frida = await openBrowser("frida");
    try {
        const q = frida.page;
        await q.goto(`${server.base}/login?next=/account`);
        await q.getByRole("link", { name: "Sign in with Town Hall" }).click();
        await q.getByText("@frida:demo.example").first().waitFor(); // nobody asked her
        await q.goto(`${server.base}/account?action=org.matrix.account_deactivate`);
        await q.getByRole("heading", { level: 1, name: "Confirm that it is you" }).waitFor();
        assert.equal(await q.locator("input[type=password]").count(), 0);
        assert.deepEqual(await obstacles(q), []);
        await pictures(q, "reauth-provider");
        await q.getByRole("link", { name: "Confirm with Town Hall" }).click();
        await q.getByRole("button", { name: "I am Frida" }).click();
        await q.locator("form[action='/account/deactivate']").waitFor();
        assert.match(q.url(), /action=org\.matrix\.account_deactivate$/);
        assert.deepEqual(frida.problems, []);
    } finally {
        await frida.browser.close();
        town.close();
    }
});
