// Web Push from the switch in the settings to the notification, against the real program. Only the push service of the
// browser's maker is stood in for: it takes what the server sends, opens it as a browser does, and hands it to the
// real service worker.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createDecipheriv, createECDH, createPublicKey, hkdfSync, randomBytes, verify } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { binary, keepEvidence, obstacles, openBrowser, skipReason, startServer, until } from "./lib.mjs";

const skip = skipReason();
const dir = mkdtempSync(join(tmpdir(), "holdfast-push-"));
const password = "lantern orbit maple 4";
let server, service, ada;
const got = []; // what the push service was sent
const browserKey = createECDH("prime256v1");
browserKey.generateKeys();
const auth = randomBytes(16);
const b64 = (b) => Buffer.from(b).toString("base64url");

before(async () => {
    if (skip) return;
    // The program trusts the authority of the push service, which is its own one here, once it is known.
    process.env.SSL_CERT_FILE = join(dir, "roots.pem");
    server = await startServer(["--set", "server_name=demo.example", "--set", "network.allow_private=true", "--set", "sfu.enabled=false"]);
    const tls = join(server.data, "tls");
    writeFileSync(process.env.SSL_CERT_FILE, readFileSync(join(tls, "ca.crt")));
    service = createServer({ cert: readFileSync(join(tls, "leaf.crt")), key: readFileSync(join(tls, "leaf.key")) }, (req, res) => {
        const parts = [];
        req.on("data", (d) => parts.push(d));
        req.on("end", () => {
            got.push({ headers: req.headers, path: req.url, body: Buffer.concat(parts) });
            res.writeHead(201).end();
        });
    });
    await new Promise((ok) => service.listen(0, "127.0.0.1", ok));
    const setup = async (what, body, cookie = "") => {
        const r = await fetch(`${server.base}/api/setup/${what}`, { method: "POST", headers: { "content-type": "application/json", cookie }, body: JSON.stringify(body) });
        assert.ok(r.ok, `${what}: ${r.status} ${await r.clone().text()}`);
        return r.headers.getSetCookie()[0]?.split(";")[0];
    };
    const cookie = await setup("claim", { code: server.claimCode });
    await setup("finish", { organisation: "Demo", server_name: "demo.example", tls: { mode: "own-ca" }, admin: { localpart: "ada", display_name: "Ada", password } }, cookie);
    {
        const r = spawnSync(binary, ["user", "add", "grace", "--password-stdin", "--data", server.data], { input: `${password}\n`, encoding: "utf8" });
        assert.equal(r.status, 0, r.stderr);
    }
    ada = await openBrowser("ada", { permissions: [] });
});

after(async () => {
    await ada?.browser.close();
    service?.close();
    if (server) assert.equal(await server.stop(), "exit code 0", "the server must stop cleanly");
    rmSync(dir, { recursive: true, force: true });
});

// open is decryption as a browser does it (RFC 8291).
function open(body) {
    const salt = body.subarray(0, 16);
    const from = body.subarray(21, 21 + body[20]);
    const hkdf = (key, salt_, info, n) => Buffer.from(hkdfSync("sha256", key, salt_, info, n));
    const key = hkdf(browserKey.computeSecret(from), auth, Buffer.concat([Buffer.from("WebPush: info\0"), browserKey.getPublicKey(), from]), 32);
    const sealed = body.subarray(21 + body[20]);
    const gcm = createDecipheriv("aes-128-gcm", hkdf(key, salt, "Content-Encoding: aes128gcm\0", 16), hkdf(key, salt, "Content-Encoding: nonce\0", 12));
    gcm.setAuthTag(sealed.subarray(-16));
    const text = Buffer.concat([gcm.update(sealed.subarray(0, -16)), gcm.final()]);
    assert.equal(text.at(-1), 2);
    return text.subarray(0, -1).toString();
}

async function api(token, method, path, body) {
    const r = await fetch(`${server.base}/_matrix/client/v3${path}`, { method, headers: { "content-type": "application/json", ...(token ? { authorization: `Bearer ${token}` } : {}) }, body: body && JSON.stringify(body) });
    const json = await r.json();
    assert.ok(r.ok, `${method} ${path}: ${r.status} ${JSON.stringify(json)}`);
    return json;
}

test("Web Push is turned on by hand, wakes the browser, and opens the chat", { skip, timeout: 300_000 }, async (t) => {
    try {
        await story(t);
    } catch (e) {
        await keepEvidence("push", [ada]);
        throw e;
    }
});

async function story(t) {
    let p = ada.page;
    const asked = () => p.evaluate(() => window.__asked ?? 0);
    await ada.context.addInitScript(() => {
        // Without a screen the browser refuses before anybody could be asked; here it is open until somebody is.
        const ask = Notification.requestPermission.bind(Notification);
        const real = Object.getOwnPropertyDescriptor(Notification, "permission").get;
        Object.defineProperty(Notification, "permission", { get: () => (window.__asked || real.call(Notification) === "granted" ? real.call(Notification) : "default") });
        Notification.requestPermission = (...a) => {
            window.__asked = (window.__asked ?? 0) + 1;
            return ask(...a);
        };
    });
    await p.goto(`${server.base}/settings/look?login`);
    await p.locator("#username").fill("ada");
    await p.locator("#password").fill(password);
    await p.locator("form:has(#password) button[type=submit]").click();
    await p.getByTestId("web-push").waitFor({ timeout: 60_000 });
    assert.equal(await asked(), 0, "nobody is asked for permission before a click");

    // Refused, the reason is said.
    await p.getByText("Also when the chat is closed").click();
    await p.getByText("does not allow notifications").waitFor();
    assert.equal(await asked(), 1);
    // Allowed, but this build of the browser has no push service: that is said, too.
    await ada.context.grantPermissions(["notifications"], { origin: server.base });
    await p.getByText("Also when the chat is closed").click();
    await p.getByText("cannot be reached").waitFor();
    assert.deepEqual(await obstacles(p), []);

    // With a push service.
    const at = `https://localhost:${service.address().port}/wake/secret`;
    await ada.context.addInitScript(
        ({ endpoint, p256dh, auth }) => {
            let subscription = null;
            PushManager.prototype.getSubscription = async () => subscription;
            PushManager.prototype.subscribe = async (o) => {
                if (!o.userVisibleOnly) throw new Error("not visible");
                window.__vapid = btoa(String.fromCharCode(...new Uint8Array(o.applicationServerKey)));
                return (subscription = {
                    endpoint,
                    options: { applicationServerKey: o.applicationServerKey },
                    toJSON: () => ({ endpoint, keys: { p256dh, auth } }),
                    unsubscribe: async () => ((subscription = null), true),
                });
            };
        },
        { endpoint: at, p256dh: b64(browserKey.getPublicKey()), auth: b64(auth) },
    );
    await p.reload();
    await p.getByTestId("web-push").waitFor({ timeout: 60_000 });
    await p.getByText("Also when the chat is closed").click();
    const on = () => p.getByRole("switch", { name: "Also when the chat is closed" }).isChecked();
    await until("the switch is on", on);
    const vapid = Buffer.from(await p.evaluate(() => window.__vapid), "base64");
    // A reload keeps it, and tells the server again.
    await p.reload();
    await p.getByTestId("web-push").waitFor({ timeout: 60_000 });
    await until("the switch is still on", on);

    // Grace writes while Ada's chat is closed.
    const { access_token: grace } = await api("", "POST", "/login", { type: "m.login.password", identifier: { type: "m.id.user", user: "grace" }, password });
    const cdp = await ada.context.newCDPSession(await ada.context.newPage());
    const registrations = [];
    cdp.on("ServiceWorker.workerRegistrationUpdated", (e) => registrations.push(...e.registrations));
    await cdp.send("ServiceWorker.enable");
    const [worker] = ada.context.serviceWorkers();
    assert.ok(worker, "there is no service worker");
    await p.goto("about:blank");
    const { room_id } = await api(grace, "POST", "/createRoom", { preset: "trusted_private_chat", is_direct: true, invite: ["@ada:demo.example"] });
    await until("the push service is asked", () => got.length > 0);
    const { headers, path, body } = got[0];
    assert.equal(path, "/wake/secret");
    assert.equal(headers["content-encoding"], "aes128gcm");
    const [, jwt, key] = /^vapid t=([^,]+), k=(.+)$/.exec(headers.authorization);
    assert.deepEqual(Buffer.from(key, "base64url"), vapid, "the server signs with the key that the browser subscribed to");
    const [head, claims, signature] = jwt.split(".");
    const jwk = { kty: "EC", crv: "P-256", x: b64(vapid.subarray(1, 33)), y: b64(vapid.subarray(33)) };
    assert.ok(verify("sha256", Buffer.from(`${head}.${claims}`), { key: createPublicKey({ key: jwk, format: "jwk" }), dsaEncoding: "ieee-p1363" }, Buffer.from(signature, "base64url")));
    assert.equal(JSON.parse(Buffer.from(claims, "base64url")).aud, new URL(at).origin);
    const text = open(body);
    const news = JSON.parse(text);
    assert.equal(news.room_id, room_id);
    assert.deepEqual(Object.keys(news).filter((k) => !["room_id", "event_id", "counts", "prio"].includes(k)), [], "no more than IDs and counts leaves the server");
    t.diagnostic(`what the push service carried: ${text}`);

    // The browser hands it to the worker, which shows it.
    const registration = registrations.findLast((r) => r.scopeURL === `${server.base}/` && !r.isDeleted);
    assert.ok(registration, JSON.stringify(registrations));
    const shown = () => worker.evaluate(async () => (await self.registration.getNotifications()).map((n) => ({ title: n.title, body: n.body, room: n.data?.room })));
    const deliver = (data) => cdp.send("ServiceWorker.deliverPushMessage", { origin: server.base, registrationId: registration.registrationId, data });
    await deliver(text);
    assert.deepEqual(await until("a notification is shown", async () => ((await shown()).length ? await shown() : undefined)), [{ title: "Holdfast", body: "You have a new message", room: room_id }]);
    // Something that is no message of ours wakes it all the same, and breaks nothing.
    await deliver("{");
    await until("another notification", async () => (await shown()).length === 2);

    // A click on it, with the chat open: it goes there. While the page is seen, the worker says nothing.
    p = ada.page;
    await p.goto(`${server.base}/`);
    await p.getByTestId("start-menu").waitFor({ timeout: 60_000 });
    await deliver(JSON.stringify({ room_id: "!other:demo.example" }));
    const click = () =>
        worker.evaluate(async () => {
            const [n] = (await self.registration.getNotifications()).filter((x) => x.data?.room);
            self.dispatchEvent(new NotificationEvent("notificationclick", { notification: n }));
        });
    await click();
    await p.waitForURL(`**/chat/${encodeURIComponent(room_id)}`);
    assert.deepEqual((await shown()).filter((n) => n.room), [], "the notification is gone, and none came for what the page shows");

    // Turned off, the server forgets it.
    await p.goto(`${server.base}/settings/look`);
    await p.getByTestId("web-push").waitFor({ timeout: 60_000 });
    const pushers = () => p.evaluate(async () => {
        const token = JSON.parse(Object.values(localStorage).find((v) => v.includes("accessToken"))).accessToken;
        return (await (await fetch("/_matrix/client/v3/pushers", { headers: { authorization: `Bearer ${token}` } })).json()).pushers.length;
    });
    assert.equal(await pushers(), 1);
    await p.getByText("Also when the chat is closed").click();
    await until("the pusher is gone", async () => (await pushers()) === 0);
    assert.equal(await on(), false);
    assert.deepEqual(ada.problems, []);
}
