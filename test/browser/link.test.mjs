// Signing in with a QR code, both ways round, against the real program: the browser shows the code, a phone
// (matrix-js-sdk in Node) reads it off a picture of the page. On the way everything that can go wrong for the person.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { inflateSync } from "node:zlib";
import { keepEvidence, obstacles, openBrowser, pictures, root, skipReason, startClaimed, until } from "./lib.mjs";
import decodeQR from "../../web/ui/node_modules/qr/decode.js";

const clients = join(root, "test/clients/js");
const node = join(clients, "node_modules/.bin/node");
let skip = skipReason();
if (!skip && !existsSync(node)) {
    skip = "matrix-js-sdk for Node is missing: run make test/clients/js/node_modules/.package-lock.json";
    if (process.env.CI === "true") throw new Error(skip);
}
const password = "lantern orbit maple 4";
let server, phone, ada, laptop;

before(async () => {
    if (skip) return;
    server = await startClaimed("ada", password);
    [ada, laptop] = await Promise.all([openBrowser("ada"), openBrowser("ada-laptop")]);
    phone = startPhone();
});

after(async () => {
    phone?.stop();
    await Promise.all([ada, laptop].map((p) => p?.browser.close()));
    if (server) assert.equal(await server.stop(), "exit code 0", "the server must stop cleanly");
});

function startPhone() {
    const child = spawn(node, ["phone.mjs", server.base, "ada", password], { cwd: clients, stdio: ["pipe", "pipe", "inherit"] });
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    return {
        tell: (command) => child.stdin.write(`${JSON.stringify(command)}\n`),
        says: async () => {
            const { value, done } = await lines.next();
            assert.ok(!done, "the phone is gone");
            return JSON.parse(value);
        },
        stop: () => child.kill(),
    };
}

// scan takes a picture of the code on a page and reads it, as a camera would.
async function scan(p) {
    const text = decodeQR(pixels(await p.getByTestId("qr-code").screenshot()), { timeLimit: 5000, textDecoder: (bytes) => String.fromCharCode(...bytes) });
    assert.ok(text?.startsWith("MATRIX"), `no such code was read: ${JSON.stringify(text)}`);
    return Buffer.from(text, "latin1");
}

// pixels unpacks a screenshot: a PNG of eight bits a channel, with or without transparency, not interlaced.
function pixels(png) {
    const [width, height, depth, kind] = [png.readUInt32BE(16), png.readUInt32BE(20), png[24], png[25]];
    assert.ok(depth === 8 && (kind === 2 || kind === 6) && png[28] === 0, "another form of PNG");
    const packed = [];
    for (let at = 8; at < png.length; at += 12 + png.readUInt32BE(at)) if (png.toString("latin1", at + 4, at + 8) === "IDAT") packed.push(png.subarray(at + 8, at + 8 + png.readUInt32BE(at)));
    const raw = inflateSync(Buffer.concat(packed));
    const n = kind === 2 ? 3 : 4;
    const line = width * n;
    const data = new Uint8Array(line * height);
    for (let y = 0; y < height; y++)
        for (let x = 0; x < line; x++) {
            const [left, up, both] = [x < n ? 0 : data[y * line + x - n], y ? data[(y - 1) * line + x] : 0, x < n || !y ? 0 : data[(y - 1) * line + x - n]];
            const [dl, du, db] = [Math.abs(up - both), Math.abs(left - both), Math.abs(left + up - 2 * both)];
            const guess = [0, left, up, (left + up) >> 1, dl <= du && dl <= db ? left : du <= db ? up : both][raw[y * (line + 1)]];
            data[y * line + x] = raw[y * (line + 1) + 1 + x] + guess;
        }
    return { width, height, data };
}
// meetingOf is the address in a code where the devices meet.
const meetingOf = (code) => /https?:\/\/[!-~]*rendezvous\/[0-9A-Z]+/.exec(code.toString("latin1"))[0];

test("a phone is signed in by a code that a browser shows, and signs a browser in by one", { skip, timeout: 300_000 }, async (t) => {
    try {
        await story(t);
    } catch (e) {
        await keepEvidence("link", [ada, laptop].filter(Boolean));
        throw e;
    }
});

async function story(t) {
    const p = ada.page;
    await p.goto(`${server.base}/?login`);
    await p.locator("#username").fill("ada");
    await p.locator("#password").fill(password);
    await p.locator("form:has(#password) button[type=submit]").click();
    await p.getByTestId("start-menu").click();
    await p.getByRole("menuitem", { name: "New group" }).click();
    await p.getByTestId("group-name").fill("Notes");
    await p.keyboard.press("Enter");
    await p.getByTestId("composer").fill("Said before there was a phone");
    await p.keyboard.press("Enter");
    await p.getByTestId("message").filter({ hasText: "Said before" }).waitFor();
    await until("its key is in the backup", () => keysInBackup(p), 60_000);

    // Given up, the code leads nowhere.
    await p.goto(`${server.base}/settings/devices`);
    await p.getByTestId("link-device").click();
    await p.getByTestId("qr-code").waitFor();
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "show");
    const given = await scan(p);
    assert.equal((await fetch(meetingOf(given))).status, 200);
    await p.getByTestId("qr-cancel").click();
    await p.getByTestId("link-dialog").waitFor({ state: "detached" });
    await until("the code is of no use any more", async () => (await fetch(meetingOf(given))).status === 404);

    // Another number than the phone's: once it may be a typing error, twice it ends, and the phone is told.
    await p.getByTestId("link-device").click();
    await p.getByTestId("qr-code").waitFor();
    phone.tell({ join: (await scan(p)).toString("base64") });
    const first = await phone.says();
    assert.match(first.number ?? JSON.stringify(first), /^\d\d$/);
    const wrong = first.number === "11" ? "22" : "11";
    await p.getByTestId("qr-number").fill(wrong);
    await p.getByTestId("qr-number-go").click();
    await p.getByText("shows another number").waitFor();
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "number");
    await p.getByTestId("qr-number").fill(wrong);
    await p.getByTestId("qr-number-go").click();
    await p.getByTestId("qr-problem").filter({ hasText: "The numbers differ" }).waitFor();
    await pictures(p, "differ");
    assert.deepEqual(await phone.says(), { failed: "user_cancelled" });

    // Not allowed on the account page.
    const [again, page] = await toThePage(p);
    await page.getByText(again.userCode).waitFor();
    await page.getByText("A phone").first().waitFor();
    assert.deepEqual(await obstacles(page), []);
    await pictures(page, "page");
    await page.locator("button[value=no]").click();
    await page.waitForLoadState();
    await page.close();
    assert.deepEqual(await phone.says(), { failed: "user_cancelled" });
    await p.getByTestId("qr-problem").filter({ hasText: "not allowed" }).waitFor({ timeout: 30_000 });
    assert.equal(await p.getByTestId("device").count(), 1);

    // Allowed: the phone is there, confirmed, and reads what was said before.
    const [, allow] = await toThePage(p);
    await allow.locator("button[value=yes]").click();
    await allow.waitForLoadState();
    await allow.close();
    await p.getByTestId("qr-done").waitFor({ timeout: 60_000 });
    assert.deepEqual(await obstacles(p), []);
    await pictures(p, "done");
    const linked = await phone.says();
    assert.equal(linked.user, "@ada:demo.example", JSON.stringify(linked));
    assert.ok(linked.texts.includes("Said before there was a phone"), JSON.stringify(linked));
    await p.getByTestId("link-dialog").getByRole("button", { name: "Done" }).click();
    await until("the phone is in the list, confirmed", async () => /Confirmed/.test(await p.getByTestId("device").filter({ hasText: linked.device }).innerText()) || (await p.reload(), false), 40_000, 2000);

    // The other way round. A code that nobody scanned for ten minutes is said to be old, and the next one is another.
    // The clock of that browser goes on by itself, so it is another one.
    const waits = await laptop.browser.newContext({ locale: "en-GB" });
    const w = await waits.newPage();
    await w.clock.install();
    await w.goto(server.base);
    await w.getByTestId("login-qr").waitFor();
    await pictures(w, "sign-in");
    await w.getByTestId("login-qr").click();
    await w.getByTestId("qr-code").waitFor();
    assert.deepEqual(await obstacles(w), []);
    await pictures(w, "sign-in-code");
    const old = await scan(w);
    await w.clock.fastForward("10:05");
    await w.getByTestId("qr-problem").filter({ hasText: "took too long" }).waitFor();
    await waits.close();

    const l = laptop.page;
    await l.goto(server.base);
    await l.getByTestId("login-qr").click();
    await l.getByTestId("qr-code").waitFor();
    const code = await scan(l);
    assert.notEqual(meetingOf(code), meetingOf(old));
    phone.tell({ admit: code.toString("base64") });
    const { number, failed } = await phone.says();
    assert.ok(number, failed);
    await l.getByTestId("qr-number").fill(number);
    await l.getByTestId("qr-number-go").click();
    const admitted = await phone.says();
    assert.ok(admitted.admitted, admitted.failed);
    await l.getByTestId("room-item").filter({ hasText: "Notes" }).click({ timeout: 60_000 });
    await l.getByTestId("message").filter({ hasText: "Said before there was a phone" }).waitFor({ timeout: 60_000 });
    await l.goto(`${server.base}/settings/security`);
    await l.getByText("This device is confirmed").waitFor({ timeout: 60_000 });
    // And it can hand the keys on itself.
    await l.goto(`${server.base}/settings/devices`);
    await l.getByTestId("link-device").click();
    await l.getByTestId("qr-code").waitFor();
    await l.getByTestId("qr-cancel").click();

    // Who signed in by password has no keys to hand on: that is said, and leads to the confirmation.
    const others = await laptop.browser.newContext({ locale: "en-GB" });
    const o = await others.newPage();
    await o.goto(`${server.base}/settings/devices?login`);
    await o.locator("#username").fill("ada");
    await o.locator("#password").fill(password);
    await o.locator("form:has(#password) button[type=submit]").click();
    await o.getByTestId("link-device").click({ timeout: 60_000 });
    await o.getByTestId("qr-confirm-first").waitFor();
    await pictures(o, "unconfirmed");
    await o.getByTestId("qr-confirm-first").click();
    await o.getByTestId("confirm-dialog").waitFor();
    await others.close();
    assert.deepEqual([...ada.problems, ...laptop.problems], []);
    t.diagnostic(`a code has ${code.length} bytes`);
}

// toThePage goes from the list of devices to the page where the person decides.
async function toThePage(p) {
    await p.getByTestId("qr-again").or(p.getByTestId("link-device")).last().click();
    await p.getByTestId("qr-code").waitFor();
    phone.tell({ join: (await scan(p)).toString("base64") });
    const scanned = await phone.says();
    assert.ok(scanned.number, JSON.stringify(scanned));
    await p.getByTestId("qr-number").fill(scanned.number);
    await p.getByTestId("qr-number-go").click();
    const [page] = await Promise.all([p.context().waitForEvent("page"), p.getByTestId("qr-agree").click()]);
    await page.waitForLoadState();
    return [scanned, page];
}

// keysInBackup asks the server how many keys the account's backup has, with the page's own session.
const keysInBackup = (p) =>
    p.evaluate(async () => {
        const { accessToken } = JSON.parse(localStorage.getItem("hf.session"));
        return (await (await fetch("/_matrix/client/v3/room_keys/version", { headers: { authorization: `Bearer ${accessToken}` } })).json()).count;
    });
