// Ada prints cards in the console: for a ward, for the people of a list, for somebody who lost everything. Ben has one of
// each, and no camera.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { binary, keepEvidence, obstacles, openBrowser, pictures, skipReason, startClaimed, until } from "./lib.mjs";

const reader = spawnSync("pdftotext", ["-v"]).error ? "pdftotext is missing: install the package poppler-utils" : undefined;
if (reader && process.env.CI === "true") throw new Error(reader);
const skip = skipReason() || reader || false;
const dir = mkdtempSync(join(tmpdir(), "holdfast-cards-"));
const password = "lantern orbit maple 4";
let server, ada, ben;

before(async () => {
    if (skip) return;
    server = await startClaimed("ada", password);
    [ada, ben] = [await openBrowser("ada"), await openBrowser("ben")];
});

after(async () => {
    await ada?.browser.close();
    await ben?.browser.close();
    if (server) assert.equal(await server.stop(), "exit code 0", "the server must stop cleanly");
    rmSync(dir, { recursive: true, force: true });
});

let failed = false;
function step(name, run) {
    test(name, { skip, timeout: 180_000 }, async (t) => {
        if (failed) return t.skip("an earlier step failed");
        try {
            await run(ada.page, ben.page);
            assert.deepEqual([...ada.problems, ...ben.problems], []);
        } catch (e) {
            failed = true;
            await keepEvidence(`cards-${name.replace(/\W+/g, "-")}`, [ada, ben]);
            throw e;
        }
    });
}

function command(...args) {
    const r = spawnSync(binary, [...args, "--data", server.data], { encoding: "utf8" });
    assert.equal(r.status, 0, r.stderr);
    return r.stdout;
}

// saved downloads a document and gives what stands in it.
async function saved(p, id) {
    const link = p.getByTestId(id);
    const [download] = await Promise.all([p.waitForEvent("download"), link.click()]);
    const file = join(dir, download.suggestedFilename());
    await download.saveAs(file);
    assert.equal(readFileSync(file).subarray(0, 5).toString(), "%PDF-");
    const r = spawnSync("pdftotext", ["-layout", file, "-"], { encoding: "utf8" });
    assert.equal(r.status, 0, r.stderr);
    return { name: download.suggestedFilename(), text: r.stdout };
}

const codes = (text) => text.match(/\b[0-9A-Z]{4}(?:-[0-9A-Z]{4}){3}\b/g) ?? [];
const pins = (text) => [...text.matchAll(/\b(\d{3}) (\d{3})\b/g)].map((m) => m[1] + m[2]);

async function look(p, name) {
    assert.deepEqual(await obstacles(p), [], name);
    await pictures(p, name);
}

// typed opens the page of a card's code.
async function typed(p, code) {
    await p.goto(`${server.base}/e`);
    await p.locator("#code").fill(code);
    await p.locator("form:has(#code) button[type=submit]").click();
    await p.locator("#password").waitFor();
}

async function choose(p, { username, pin }) {
    if (pin) await p.locator("#pin").fill(pin);
    if (username) await p.locator("#username").fill(username);
    await p.locator("#password").fill("stapler battery lamp");
    await p.locator("#password2").fill("stapler battery lamp");
    await p.locator("form:has(#password2) button[type=submit]").click();
}

async function state(p) {
    return (await p.getByTestId("batches").innerText()).replace(/\s+/g, " ");
}

step("cards for a ward", async (p) => {
    command("group", "add", "Ward 7");
    await p.goto(`${server.base}/console/cards`);
    await p.getByRole("link", { name: "Sign in" }).or(p.getByRole("button", { name: "Sign in" })).click();
    await p.locator("#username").fill("ada");
    await p.locator("#password").fill(password);
    await p.locator("form:has(#password) button[type=submit]").click();
    await p.getByText("No cards yet").waitFor();
    await look(p, "console-cards-none");
    await p.getByTestId("cards-new").click();
    await p.getByTestId("cards-name").fill("Ward 7");
    await p.getByTestId("cards-count").fill("2000");
    await p.getByTestId("gift-role").selectOption("moderator");
    await p.getByTestId("gift-group-Ward 7").click();
    await p.getByTestId("cards-pins").click();
    await p.getByTestId("cards-make").click();
    await p.getByText("Print 1 to 1,000 cards at once").waitFor();
    await look(p, "console-cards-new");
    await p.getByTestId("cards-count").fill("12");
    await p.getByTestId("cards-make").click();
    await p.getByTestId("cards-pdf").waitFor();
    await look(p, "console-cards");
});

let ward;
step("a card is typed by hand, with its PIN", async (p, q) => {
    const cards = await saved(p, "cards-pdf");
    const list = await saved(p, "pins-pdf");
    assert.deepEqual([cards.name, list.name], ["Ward-7.pdf", "Ward-7-PIN.pdf"]);
    ward = codes(cards.text);
    const pin = pins(list.text);
    assert.equal(ward.length, 12);
    assert.equal(pin.length, 12);
    await q.goto(`${server.base}/e`);
    await q.locator("#code").fill("no code");
    await q.locator("form:has(#code) button[type=submit]").click();
    await q.getByRole("alert").waitFor();
    await look(q, "card-code");
    await typed(q, ward[0].toLowerCase().replaceAll("-", " "));
    await look(q, "card-invite");
    await choose(q, { username: "ben", pin: pin[0] === "000000" ? "000001" : "000000" });
    await q.getByText("This is not the PIN of this card").waitFor();
    assert.equal(await q.locator("#username").inputValue(), "ben");
    await choose(q, { pin: pin[0] });
    await q.getByText("@ben:demo.example").first().waitFor();
    assert.match(command("group", "members", "Ward 7"), /@ben:demo\.example/);
    assert.match(command("role", "list"), /@ben:demo\.example\s+moderator/);
    await p.reload();
    await p.getByText("11 open · 1 used").waitFor();
    assert.equal(await p.getByTestId("cards-pdf").count(), 0, "nobody gets them again");
});

step("one card is withdrawn, then all", async (p, q) => {
    await p.getByRole("button", { name: "Show the cards" }).click();
    const list = p.getByTestId("batch-cards");
    await list.getByText("@ben:demo.example").waitFor();
    await look(p, "console-cards-batch");
    await list.getByRole("button", { name: "Revoke" }).first().click();
    await list.getByText("Withdrawn").waitFor();
    await p.getByRole("button", { name: "Close" }).last().click();
    await p.getByText("10 open · 1 used · 1 withdrawn").waitFor();
    // The rest is printed again, in German; the old codes end.
    await p.getByTestId("batch-reprint").click();
    await p.getByText("The 10 cards that nobody has used get new codes").waitFor();
    await p.getByTestId("cards-language").selectOption({ label: "Deutsch" });
    await look(p, "console-cards-again");
    await p.getByTestId("cards-again-make").click();
    const anew = await saved(p, "cards-pdf");
    assert.equal(codes(anew.text).length, 10);
    assert.equal(codes(anew.text).filter((c) => ward.includes(c)).length, 0);
    assert.match(anew.text, /Wählen Sie einen Benutzernamen/);
    assert.equal(pins((await saved(p, "pins-pdf")).text).length, 10);
    assert.match(await state(p), /10 open · 1 used · 1 withdrawn/);
    await look(p, "console-cards-printed-again");
    await p.getByTestId("batch-revoke").click();
    await look(p, "console-cards-revoke");
    await p.getByTestId("confirm").click();
    await p.getByText("10 cards withdrawn").waitFor();
    await until("they are withdrawn", async () => /1 used · 11 withdrawn/.test(await state(p)));
    await q.goto(`${server.base}/e`);
    await q.locator("#code").fill(codes(anew.text)[5]);
    await q.locator("form:has(#code) button[type=submit]").click();
    await until("the page says so", async () => /\/e\/[0-9A-Z]{16}$/.test(q.url()) && (await q.locator("#password").count()) === 0);
});

step("a list is compared, shown, and taken over, with cards for who is new", async (p, q) => {
    const file = join(dir, "people.csv");
    writeFileSync(file, "username,displayname,groups\ncarla,Carla Öztürk,Night\ndora,Dora D.,\nno name at all,,\n");
    await p.goto(`${server.base}/console/lists`);
    await p.getByTestId("list-name").waitFor();
    await look(p, "console-lists");
    const wrong = join(dir, "wrong.csv");
    writeFileSync(wrong, "colour,shape\nred,round\n");
    await p.getByTestId("list-file").setInputFiles(wrong);
    await p.getByRole("alert").getByText("The list cannot be used").waitFor();
    await p.getByTestId("list-file").setInputFiles(file);
    await p.getByTestId("list-make-changes").getByText("carla", { exact: true }).waitFor();
    await p.getByTestId("cards-per-page").selectOption("1");
    await look(p, "console-lists-plan");
    assert.doesNotMatch(command("user", "list"), /carla/);
    await p.getByTestId("list-apply").click();
    await p.getByTestId("list-done").getByText("Accounts made: 2").waitFor();
    await look(p, "console-lists-done");
    assert.match(command("user", "list"), /carla/);
    const { text } = await saved(p, "cards-pdf");
    assert.equal(codes(text).length, 2);
    assert.match(text, /For Carla Öztürk/);
    await typed(q, codes(text)[0]);
    await choose(q, {});
    await q.getByText("@carla:demo.example").first().waitFor();
    // The same list again: nothing is to be done.
    await p.getByTestId("list-file").setInputFiles(file);
    await p.getByText("There is nothing to change.").waitFor();
});

step("somebody lost everything: a link, and a card", async (p, q) => {
    await p.goto(`${server.base}/console/people`);
    const row = (name) => p.getByTestId("people").locator("li", { hasText: name });
    await row("@dora:demo.example").getByRole("button", { name: "First password" }).waitFor();
    await row("@ben:demo.example").getByTestId("way-in-open").click();
    await look(p, "console-way-in");
    await p.getByTestId("way-in-link").click();
    await p.getByText("sets the password of @ben:demo.example").waitFor();
    await look(p, "console-way-in-link");
    const link = new URL((await p.getByTestId("invite-url").innerText()).trim());
    await p.getByRole("button", { name: "Close" }).last().click();
    await row("@ben:demo.example").getByTestId("way-in-open").click();
    await p.getByTestId("way-in-card").click();
    await p.getByTestId("cards-pdf").waitFor();
    await look(p, "console-way-in-card");
    const { text } = await saved(p, "cards-pdf");
    assert.match(text, /Choose a new password/);
    // The card is the newer of the two.
    const old = await fetch(server.base + link.pathname);
    assert.equal(old.status, 410);
    await typed(q, codes(text)[0]);
    await look(q, "card-recovery");
    await choose(q, {});
    await q.getByText("@ben:demo.example").first().waitFor();
    await p.goto(`${server.base}/console/cards`);
    await p.getByTestId("batches").getByText("Recovery").waitFor();
    await look(p, "console-cards-list");
    assert.match(command("audit", "list", "--event", "cards.create"), /@ada:demo\.example/);
});
