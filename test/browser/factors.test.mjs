// Second factors on the real program in a real browser: an authenticator app, recovery codes, passkeys on Chromium's
// virtual authenticator, and proving anew who one is. Every page is looked at for what keeps people from using it.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash, createHmac, X509Certificate } from "node:crypto";
import { after, before, test } from "node:test";
import { connect } from "node:tls";
import { binary, keepEvidence, obstacles, openBrowser, pictures, skipReason, startClaimed, until } from "./lib.mjs";

const skip = skipReason();
const name = "demo.example";
const password = "lantern orbit maple 4";
let server, base, browserArgs, ada, cdp, desk;

before(async () => {
    if (skip) return;
    server = await startClaimed("ada", password);
    base = `https://${name}:${server.https}`;
    // Browsers want a certificate that they trust for passkeys: this one, by its key.
    const key = await until("the certificate for the name", () => new Promise((ok, no) => {
        const s = connect({ port: server.https, servername: name, rejectUnauthorized: false }, () => {
            const cert = new X509Certificate(s.getPeerX509Certificate().raw);
            s.end();
            ok(cert.subjectAltName?.includes(name) && createHash("sha256").update(cert.publicKey.export({ type: "spki", format: "der" })).digest("base64"));
        });
        s.once("error", no);
    }));
    browserArgs = [`--ignore-certificate-errors-spki-list=${key}`, `--host-resolver-rules=MAP ${name} 127.0.0.1, MAP *.google.com ~NOTFOUND, MAP *.googleapis.com ~NOTFOUND, MAP *.gvt1.com ~NOTFOUND`];
    ada = await openBrowser("ada", { ignoreHTTPSErrors: false }, browserArgs);
    ada.context.setDefaultTimeout(30_000);
    cdp = await ada.context.newCDPSession(ada.page);
    await cdp.send("WebAuthn.enable");
    // Somebody who signed in before there was a second factor.
    desk = await openBrowser("desk", { ignoreHTTPSErrors: false }, browserArgs);
    desk.context.setDefaultTimeout(30_000);
    await desk.page.goto(`${base}/login?next=/console/settings`);
    await typePassword(desk.page);
    await desk.page.getByTestId("files-quota").waitFor();
});

after(async () => {
    await Promise.all([ada, desk].map((p) => p?.browser.close()));
    if (server) assert.equal(await server.stop(), "exit code 0", "the server must stop cleanly");
});

const checked = async (t, fn) => {
    try {
        await fn();
        assert.deepEqual(ada.problems, [], "the pages must not break their own rules");
    } catch (e) {
        await keepEvidence(`factors-${t.name.replaceAll(/\W+/g, "-").slice(0, 40)}`, [ada, desk]);
        throw e;
    }
};

const authenticator = async (more = {}) =>
    (await cdp.send("WebAuthn.addVirtualAuthenticator", {
        options: { protocol: "ctap2", transport: "internal", hasResidentKey: true, hasUserVerification: true, isUserVerified: true, automaticPresenceSimulation: true, ...more },
    })).authenticatorId;

/** digits are what an authenticator app shows (RFC 6238), steps of half a minute from now. */
function digits(secret, steps = 0) {
    const bits = [...secret.replaceAll(" ", "")].map((c) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".indexOf(c).toString(2).padStart(5, "0")).join("");
    const key = Buffer.from(bits.match(/.{8}/g).map((b) => Number.parseInt(b, 2)));
    const counter = Buffer.alloc(8);
    counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + steps));
    const h = createHmac("sha1", key).update(counter).digest();
    return String((h.readUInt32BE(h[19] & 15) & 0x7fffffff) % 1_000_000).padStart(6, "0");
}

const look = async (label) => {
    await pictures(ada.page, `factors-${label}`);
    assert.deepEqual(await obstacles(ada.page), [], `${label}: nothing may keep people from using it`);
};

const signOut = async () => {
    await ada.page.goto(`${base}/logout`);
    await ada.page.getByRole("button", { name: "Sign out" }).click();
    await ada.page.goto(`${base}/login?next=/account/security`);
};

const typePassword = async (page = ada.page) => {
    await page.getByLabel("User name").fill("ada");
    await page.getByLabel("Password").fill(password);
    await page.getByRole("button", { name: "Sign in", exact: true }).click();
};

const heading = (text) => ada.page.getByRole("heading", { level: 1, name: text }).waitFor();

let secret, codes;

test("an authenticator app is added, by keyboard alone, and a sign-in asks for it", { skip, timeout: 120_000 }, (t) =>
    checked(t, async () => {
        const { page } = ada;
        await page.goto(`${base}/login?next=/account/security`);
        await typePassword();
        await heading("Security");
        await look("security");
        await page.getByRole("link", { name: "Add an authenticator app" }).click();
        await heading("Add an authenticator app");
        await look("addapp");
        assert.ok(await page.locator(".hf-qr svg").isVisible());
        secret = await page.locator("#secret").innerText();
        await page.getByLabel("Digits of the app").focus();
        await page.keyboard.type("000000");
        await page.keyboard.press("Enter");
        await page.getByRole("alert").waitFor();
        assert.equal(await page.locator("#secret").innerText(), secret, "a slip must not make the app worthless");
        await page.getByLabel("Digits of the app").focus();
        await page.keyboard.type(digits(secret, -1)); // the one before: the next sign-in has another
        await page.keyboard.press("Enter");
        await heading("Your recovery codes");
        await look("codes");
        codes = await page.locator(".hf-codes code").allInnerTexts();
        assert.equal(codes.length, 10);
        const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Download as a file" }).click()]);
        const text = await (await import("node:fs/promises")).readFile(await file.path(), "utf8");
        for (const c of codes) assert.ok(text.includes(c), "the file must have every code");

        await signOut();
        await typePassword();
        await heading("Second factor");
        await look("totp");
        await page.keyboard.type(digits(secret));
        await page.keyboard.press("Enter");
        await heading("Security");
    }));

test("a recovery code stands in for it once", { skip, timeout: 120_000 }, (t) =>
    checked(t, async () => {
        const { page } = ada;
        await signOut();
        await typePassword();
        await page.getByRole("link", { name: "Use a recovery code" }).click();
        await heading("Use a recovery code");
        await look("code");
        await page.keyboard.type(codes[0].toLowerCase());
        await page.keyboard.press("Enter");
        await heading("Security");
        await page.getByText("Codes that can still be used: 9.").waitFor();
        await signOut();
        await typePassword();
        await page.getByRole("link", { name: "Use a recovery code" }).click();
        await page.getByLabel("Recovery code").fill(codes[0]);
        await page.keyboard.press("Enter");
        await page.getByText("was used already").waitFor();
        await page.getByLabel("Recovery code").fill(codes[1]);
        await page.keyboard.press("Enter");
        await heading("Security");
    }));

test("passkeys: added, named, used instead of the password, as second factor and to prove anew, removed", { skip, timeout: 180_000 }, (t) =>
    checked(t, async () => {
        const { page } = ada;
        const phone = await authenticator();
        const add = async (label) => {
            await page.goto(`${base}/account/security`);
            await page.getByRole("link", { name: "Add a passkey" }).click();
            await heading("Add a passkey");
            await page.getByLabel("What to call it").fill(label);
            await page.getByRole("button", { name: "Continue" }).click();
        };
        await page.goto(`${base}/account/security/passkey`);
        await look("addpasskey");
        await add("my phone");
        await page.getByText("The passkey was added.").waitFor();
        // The same device again: the browser knows.
        await add("my phone again");
        await page.getByText("This device has a passkey of your account already.").waitFor();
        // A second device.
        await cdp.send("WebAuthn.removeVirtualAuthenticator", { authenticatorId: phone });
        const key = await authenticator({ transport: "usb" });
        await add("blue key");
        await page.getByText("The passkey was added.").waitFor();
        await page.getByLabel("New name of my phone").fill("old phone");
        await page.getByRole("button", { name: "Rename my phone" }).click();
        await page.getByText("old phone").first().waitFor();
        await look("security-full");

        // Instead of the password.
        await signOut();
        await heading("Sign in");
        await look("login");
        await page.getByRole("button", { name: "Sign in with a passkey" }).click();
        await heading("Security");

        // After the password.
        await signOut();
        await typePassword();
        await heading("Second factor");
        await look("passkey");
        await page.getByRole("button", { name: "Use the passkey" }).click();
        await heading("Security");

        // A browser whose authenticator knows nobody says so, and leaves the other ways open.
        await signOut();
        await cdp.send("WebAuthn.setAutomaticPresenceSimulation", { authenticatorId: key, enabled: true });
        await cdp.send("WebAuthn.clearCredentials", { authenticatorId: key });
        await typePassword();
        await page.getByRole("button", { name: "Use the passkey" }).click();
        await page.getByText("No passkey was used.").waitFor();
        await page.getByRole("link", { name: "Use the authenticator app" }).click();
        await page.getByRole("link", { name: "Use a recovery code" }).click();
        await page.getByLabel("Recovery code").fill(codes[2]);
        await page.keyboard.press("Enter");
        await heading("Security");

        for (const which of ["old phone", "blue key"]) {
            await page.getByRole("button", { name: `Remove ${which}`, exact: true }).click();
            await page.getByText("The passkey was removed.").waitFor();
        }
        assert.equal(await page.getByRole("button", { name: /^Rename/ }).count(), 0);
        await page.goto(`${base}/reauth?next=/account/security`);
        await heading("Confirm that it is you");
        await look("reauth");
    }));

test("a passkey is suggested in the name field", { skip, timeout: 120_000 }, (t) =>
    checked(t, async () => {
        const { page } = ada;
        const phone = await authenticator();
        await page.goto(`${base}/account/security/passkey`);
        await page.getByLabel("What to call it").fill("phone");
        await page.getByRole("button", { name: "Continue" }).click();
        await page.getByText("The passkey was added.").waitFor();
        // The virtual authenticator picks for the person what the browser would list.
        await signOut();
        await heading("Security");
        await cdp.send("WebAuthn.removeVirtualAuthenticator", { authenticatorId: phone });
    }));

test("at an address that passkeys are not for, the page says where they are", { skip, timeout: 60_000 }, (t) =>
    checked(t, async () => {
        const { page } = ada;
        await page.goto(`${server.base}/login?next=/account/security`);
        assert.equal(await page.getByRole("button", { name: "Sign in with a passkey" }).count(), 0);
        await typePassword();
        await page.getByRole("link", { name: "Use a passkey" }).click();
        await page.getByText("Passkeys work only at the appliance's own address").waitFor();
        await look("passkey-elsewhere");
        await page.getByRole("link", { name: "Use the authenticator app" }).click();
        await page.getByLabel("Digits of the app").fill(digits(secret, 1));
        await page.keyboard.press("Enter");
        await heading("Security");
        await page.getByRole("button", { name: "Make new recovery codes" }).click();
        await heading("Your recovery codes");
        codes = await page.locator(".hf-codes code").allInnerTexts();
    }));

test("the console asks who it is before a change that can do harm, and what was typed stays", { skip, timeout: 90_000 }, (t) =>
    checked(t, async () => {
        const { page } = desk;
        await page.getByTestId("files-quota").fill("3G");
        await page.getByTestId("files-save").click();
        await page.getByTestId("reauth").waitFor();
        await pictures(page, "factors-console");
        assert.deepEqual(await obstacles(page), []);
        const [popup] = await Promise.all([page.waitForEvent("popup"), page.getByTestId("reauth-open").click()]);
        await popup.getByLabel("Password").fill(password);
        await popup.getByRole("button", { name: "Confirm", exact: true }).click();
        await popup.getByRole("link", { name: "Use a recovery code" }).click();
        await popup.getByLabel("Recovery code").fill(codes[4]);
        await Promise.all([popup.waitForEvent("close"), popup.getByRole("button", { name: "Continue" }).click()]);
        await page.getByText("The rules hold from now on").waitFor();
        assert.equal(await page.getByTestId("files-quota").inputValue(), "3G");
        await page.reload();
        await until("the rule is kept", async () => (await page.getByTestId("files-quota").inputValue()) === "3G");
        // The next change needs no more.
        await page.getByTestId("files-quota").fill("4G");
        await page.getByTestId("files-save").click();
        await page.getByText("The rules hold from now on").waitFor();
        assert.deepEqual(desk.problems, []);
    }));

function command(...args) {
    const r = spawnSync(binary, [...args, "--data", server.data], { encoding: "utf8" });
    assert.equal(r.status, 0, r.stderr);
    return r.stdout;
}

test("who must have a second factor adds it before a session starts", { skip, timeout: 180_000 }, (t) =>
    checked(t, async () => {
        for (const who of ["eve", "finn"]) command("user", "add", who, "--password", password);
        command("group", "add", "Finance");
        // The console decides who must, and says who has none.
        const admin = desk.page;
        await admin.goto(`${base}/console/signin`);
        await admin.getByTestId("signin-factor").waitFor();
        await admin.getByText("Members of these groups", { exact: true }).waitFor();
        await admin.getByTestId("signin-who").getByText("Everyone").click();
        await admin.getByTestId("signin-grace").fill("400");
        await admin.getByTestId("signin-factor-save").click();
        await admin.getByText("must be a number of days from 0 to 365").waitFor();
        await admin.getByTestId("signin-grace").fill("5");
        await admin.getByTestId("signin-factor-save").click();
        await admin.getByTestId("signin-missing").getByText("2 of the 3 people").waitFor();
        // So it does how long passwords are, and browsers stay signed in.
        await admin.getByTestId("signin-password-min").fill("7");
        await admin.getByTestId("signin-session-idle").fill("31d");
        await admin.getByTestId("signin-sessions-save").click();
        await admin.getByText("must be a number of characters from 8 to 64").waitFor();
        await admin.getByTestId("signin-password-min").fill("14");
        await admin.getByTestId("signin-sessions-save").click();
        await admin.getByText("must not be longer than browsers stay signed in at most, which is 30d").waitFor();
        await admin.getByTestId("signin-session-idle").fill("2h");
        await admin.getByTestId("signin-sessions-save").click();
        await until("both are kept", async () => /"password_min": *"14"[\s\S]*"session_idle": *"2h"/.test(command("login", "show", "--json")));
        await pictures(admin, "console-signin");
        assert.deepEqual(await obstacles(admin), []);

        // Eve may put it off, until she may not.
        const eve = await openBrowser("eve", { ignoreHTTPSErrors: false }, browserArgs);
        eve.context.setDefaultTimeout(30_000);
        const { page } = eve;
        const enter = async (who) => {
            await page.context().clearCookies();
            await page.goto(`${base}/login?next=/account/security`);
            await page.getByLabel("User name").fill(who);
            await page.getByLabel("Password").fill(password);
            await page.getByRole("button", { name: "Sign in", exact: true }).click();
        };
        const title = (text) => page.getByRole("heading", { level: 1, name: text }).waitFor();
        try {
            await enter("eve");
            await title("Add a second factor");
            await pictures(page, "enrolfactor-later");
            assert.deepEqual(await obstacles(page), []);
            await page.getByRole("button", { name: "Later" }).click();
            await title("Security");
            await pictures(page, "security-wanted");
            await page.goto(`${base}/account?action=password`);
            await page.getByText("At least 14 characters").waitFor();
            assert.equal(await page.getByLabel("New password", { exact: true }).getAttribute("minlength"), "14");
            command("login", "set", "--password-min", "8", "--session-idle", "none");
            await admin.getByTestId("signin-grace").fill("0");
            await admin.getByTestId("signin-factor-save").click();
            await until("it counts at once", async () => JSON.parse(command("login", "show", "--json")).second_factor_grace === "0");

            await enter("eve");
            await title("Add a second factor");
            await pictures(page, "enrolfactor");
            assert.deepEqual(await obstacles(page), []);
            assert.equal(await page.getByRole("button", { name: "Later" }).count(), 0);
            await page.goto(`${base}/account`);
            await title("Sign in"); // no session yet
            await page.goto(`${base}/login/enrol?next=/account/security`);
            await page.getByRole("link", { name: "Add an authenticator app" }).click();
            const key = await page.locator("#secret").innerText();
            await page.getByLabel("Digits of the app").fill(digits(key, -1));
            await page.keyboard.press("Enter");
            await title("Your recovery codes");
            assert.equal(await page.locator(".hf-codes code").count(), 10);
            await page.getByRole("link", { name: "I have kept them" }).click();
            await title("Security");
            await page.getByText("the last one cannot be removed").waitFor();
            assert.equal(await page.getByRole("button", { name: "Remove the app" }).count(), 0);
            await enter("eve");
            await title("Second factor");

            // Finn has a passkey on this device.
            const wire = await eve.context.newCDPSession(page);
            await wire.send("WebAuthn.enable");
            await wire.send("WebAuthn.addVirtualAuthenticator", {
                options: { protocol: "ctap2", transport: "internal", hasResidentKey: true, hasUserVerification: true, isUserVerified: true, automaticPresenceSimulation: true },
            });
            await enter("finn");
            await title("Add a second factor");
            await page.getByRole("link", { name: "Add a passkey" }).click();
            await page.getByLabel("What to call it").fill("this one");
            await page.getByRole("button", { name: "Continue" }).click();
            await title("Your recovery codes");
            await page.getByRole("link", { name: "I have kept them" }).click();
            await title("Security");
            assert.deepEqual(eve.problems, []);
        } catch (e) {
            await keepEvidence("factors-rules", [eve, desk]);
            throw e;
        } finally {
            await eve.browser.close();
        }
        await admin.reload();
        await admin.getByTestId("signin-missing").getByText("All 3 people").waitFor();
        assert.deepEqual(desk.problems, []);
    }));

test("the console opens to nobody whose session has no second factor", { skip, timeout: 90_000 }, (t) =>
    checked(t, async () => {
        command("login", "set", "--second-factor", "nobody");
        command("user", "add", "gus", "--password", password, "--admin");
        const gus = await openBrowser("gus", { ignoreHTTPSErrors: false }, browserArgs);
        gus.context.setDefaultTimeout(30_000);
        const { page } = gus;
        try {
            await page.goto(`${base}/login?next=/console/people`);
            await page.getByLabel("User name").fill("gus");
            await page.getByLabel("Password").fill(password);
            await page.getByRole("button", { name: "Sign in", exact: true }).click();
            await page.getByRole("heading", { level: 1, name: "People" }).waitFor();
            command("login", "set", "--second-factor", "roles");
            await page.reload();
            await page.getByText("Only who has a second factor may open the console here.").waitFor();
            await pictures(page, "console-weak");
            await page.getByRole("link", { name: "Sign in" }).click();
            await page.getByLabel("User name").fill("gus");
            await page.getByLabel("Password").fill(password);
            await page.getByRole("button", { name: "Sign in", exact: true }).click();
            await page.getByRole("link", { name: "Add an authenticator app" }).click();
            await page.getByLabel("Digits of the app").fill(digits(await page.locator("#secret").innerText()));
            await page.keyboard.press("Enter");
            await page.getByRole("link", { name: "I have kept them" }).click();
            await page.getByRole("heading", { level: 1, name: "People" }).waitFor();
        } catch (e) {
            await keepEvidence("factors-weak", [gus]);
            throw e;
        } finally {
            await gus.browser.close();
        }
    }));
