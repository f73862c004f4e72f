// The parts of the user interface that only a machine of the appliance's own has: the disk and the clock in the setup,
// and the console's page of the machine. The program is ./machine, which stands for the hardware.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { deadline, keepEvidence, obstacles, openBrowser, root, skipReason, startServer, until } from "./lib.mjs";

const program = join(root, "bin/tools/machine");
const skip = process.platform !== "linux" ? "the disk image is Linux" : skipReason() || (!existsSync(program) && `${program} is missing: run make test-browser`);
if (skip && process.env.CI === "true") throw new Error(skip);
const admin = { name: "Ada Lovelace", localpart: "ada", password: "tram kiosk velvet 7" };

let server, ada, p, bundles;
let failed = false;

function step(name, run) {
    test(name, { skip, timeout: 180_000 }, async (t) => {
        if (failed) return t.skip("an earlier step failed");
        try {
            await run(t);
        } catch (e) {
            failed = true;
            await keepEvidence(`machine-${name.replace(/\W+/g, "-")}`, [ada]);
            throw e;
        }
    });
}

before(async () => {
    if (skip) return;
    server = await startServer([], program);
    bundles = join(server.data, "machine/bundles");
    ada = await openBrowser("ada");
    p = ada.page;
});

after(async () => {
    await ada?.browser.close();
    await server?.stop();
});

const focused = (testId) => until(`${testId} has the focus`, () => p.getByTestId(testId).evaluate((e) => e === document.activeElement));
const spilt = () => p.evaluate(() => document.documentElement.scrollWidth - innerWidth);

/** printed is the text that a printer gets. */
async function printed() {
    await p.emulateMedia({ media: "print" });
    const text = await p.locator("body").evaluate((body) => body.innerText);
    await p.emulateMedia({ media: null });
    return text;
}

step("the setup offers the browser's time to a machine whose clock is wrong", async () => {
    await p.setViewportSize({ width: 360, height: 800 });
    await p.goto(server.base);
    await p.waitForURL("**/setup");
    await p.getByTestId("claim-code").fill(server.claimCode);
    await p.keyboard.press("Enter");
    await p.getByTestId("organisation").fill("Stadt Demo");
    const note = p.getByRole("alert").filter({ has: p.getByTestId("setup-clock") });
    await note.waitFor();
    assert.match(await note.innerText(), /differs from this device's by 3 hours/);
    const { width } = await note.locator("span").first().boundingBox();
    assert.ok(width > 200, `the button squeezes the text to ${width} px`);
    assert.deepEqual(await obstacles(p), []);
    await p.getByTestId("setup-clock").click();
    await note.waitFor({ state: "detached" });

    await p.setViewportSize({ width: 1280, height: 800 });
    await p.getByTestId("setup-next").click();
    await p.getByTestId("server-name").fill("demo.example");
    await p.getByTestId("server-name-sure").check();
    await p.getByTestId("setup-next").click();
    await p.getByTestId("ca").waitFor();
    await p.getByTestId("setup-next").click();
    await p.getByTestId("admin-name").fill(admin.name);
    await p.getByTestId("admin-localpart").fill(admin.localpart);
    await p.getByTestId("admin-password").fill(admin.password);
    await p.getByTestId("admin-repeat").fill(admin.password);
    await p.getByTestId("setup-next").click();
    await p.getByTestId("setup-done").waitFor();
});

step("the setup ends with a decision about the disk, and each paper bears only what it is for", async () => {
    assert.equal(await p.getByTestId("setup-open").count(), 0, "one can go on before the disk was decided about");
    await p.getByTestId("invite-url").waitFor();
    await p.getByTestId("recovery-make").click();
    const words = (await p.getByTestId("recovery-passphrase").innerText()).trim();
    assert.match(words, /^(\w{5}-){5}\w{5}$/);
    const paper = await printed();
    assert.ok(paper.includes(words) && paper.includes("Stadt Demo") && paper.includes("demo.example") && paper.includes(String(new Date().getFullYear())), paper);
    assert.ok(!paper.includes("Invite") && !paper.includes("/e/"), `more than the passphrase is printed: ${paper}`);
    // The invite's own button prints the invite, not the secret beside it.
    await p.evaluate(() => (window.print = () => undefined));
    await p.getByTestId("invite-print").click();
    const card = await printed();
    assert.ok(card.includes("/e/") && !card.includes(words), card);
    await p.evaluate(() => dispatchEvent(new Event("afterprint")));
    assert.ok(!(await printed()).includes("/e/"));

    await p.getByTestId("recovery-written").click();
    await focused("recovery-typed");
    await p.keyboard.type("AAAA");
    await p.keyboard.press("Enter");
    await p.getByText("This is not the passphrase that was printed.").waitFor();
    await focused("recovery-typed");
    assert.deepEqual(await obstacles(p), []);
    await p.getByTestId("setup-disk-leave").click();
    await p.getByTestId("setup-open").click();
    await p.locator("#username").fill(admin.localpart);
    await p.locator("#password").fill(admin.password);
    await p.locator("form:has(#password) button[type=submit]").click();
    await p.getByTestId("start-menu").waitFor({ timeout: 40_000 });
    await p.goto(`${server.base}/console/machine`);
    await p.getByTestId("version-running").waitFor();
});

step("the page of the machine fits and keeps nobody out", async () => {
    for (const width of [1440, 360]) {
        await p.setViewportSize({ width, height: 800 });
        assert.equal(await spilt(), 0, `the page is wider than ${width} px`);
        const field = await p.getByTestId("update-from").boundingBox();
        const fetch = await p.getByRole("button", { name: "Fetch" }).boundingBox();
        assert.equal(fetch.x > field.x + field.width, width === 1440, "the button is beside its field where there is room");
    }
    assert.deepEqual(await obstacles(p), []);
    await p.setViewportSize({ width: 1280, height: 800 });
});

step("versions come from a file and from a stick, and what cannot be taken says why", async () => {
    const versions = p.getByTestId("machine-versions");
    for (const [file, why] of [["letter.hfu", /\S/], ["stranger.hfu", /sign/i]]) {
        await p.getByTestId("update-file").setInputFiles(join(bundles, file));
        const note = versions.getByRole("alert");
        await until(`${file} is refused`, async () => why.test(await note.innerText()));
    }
    await p.getByTestId("update-file").setInputFiles(join(bundles, "older.hfu"));
    await p.getByText("is older than 1.4.0").waitFor();
    await p.keyboard.press("Escape");
    await p.getByTestId("confirm").waitFor({ state: "detached" });
    await p.getByTestId("update-sticks").click();
    await p.getByText("No USB stick with an update was found").waitFor();
    await focused("update-sticks");
    await p.getByTestId("update-sticks").click();
    await versions.getByText("newer.hfu on sdb1").waitFor();
    await versions.getByRole("button", { name: "Use this one" }).click();
    await versions.getByText("At the next start").waitFor();
    await p.getByTestId("machine-power").getByText("Version 1.5.0 starts at the next restart").waitFor();
});

step("the disk is protected by a passphrase that was typed again", async () => {
    await p.getByTestId("disk-recovery").click();
    await p.getByTestId("recovery-make").click();
    const words = (await p.getByTestId("recovery-passphrase").innerText()).trim();
    const paper = await printed();
    assert.ok(paper.includes(words) && paper.includes("Stadt Demo") && !paper.includes("Network"), paper);
    await p.getByTestId("recovery-written").click();
    await p.getByTestId("recovery-typed").fill(words.toLowerCase().replaceAll("-", " "));
    await p.keyboard.press("Enter");
    await until("the page says so", async () => (await p.getByTestId("disk-protection").innerText()) === "Encrypted");
    await focused("disk-recovery");
    assert.ok(!(await printed()).includes(words), "the passphrase is still somewhere in the page");
});

step("a change of the network is tried, kept, or taken back", async () => {
    await p.getByTestId("network-change").click();
    await p.getByRole("radio", { name: "A fixed address" }).check({ force: true });
    await p.getByTestId("network-address").fill("nonsense");
    await p.getByTestId("network-apply").click();
    await p.getByText(/^"nonsense" is not an address/).waitFor();
    await focused("network-address");
    assert.deepEqual(await obstacles(p), []);
    await p.getByTestId("network-address").fill("192.168.1.10/24");
    await p.getByTestId("network-apply").click();
    await p.getByText(/it is taken back at \d/).waitFor();
    await p.getByTestId("machine-network").getByText("192.168.1.10/24").waitFor();
    await p.getByText("The last change was taken back: nobody confirmed it in time.").waitFor({ timeout: 60_000 });
    await p.getByTestId("machine-network").getByText("192.168.17.23/24").waitFor();

    await p.getByTestId("network-change").click();
    await p.getByRole("radio", { name: "As text" }).check({ force: true });
    await p.getByTestId("network-text").fill('{"hostname": "archive", "ports": [{"port": "any wired"}]}');
    await p.getByTestId("network-apply").click();
    await p.getByTestId("network-confirm").click();
    await p.getByTestId("network-confirm").waitFor({ state: "detached" });
    // The form does not lose what it does not show.
    await p.getByTestId("network-change").click();
    await p.getByTestId("network-dns").fill("192.168.17.2");
    await p.getByTestId("network-apply").click();
    await p.getByTestId("network-confirm").click();
    await p.getByTestId("network-confirm").waitFor({ state: "detached" });
    const { network } = await p.evaluate(async () => (await fetch("/api/console/machine")).json());
    assert.equal(network.hostname, "archive");
    assert.deepEqual(network.dns.servers, ["192.168.17.2"]);
});

step("the page waits for the machine to come back, and says what it will ask for", async () => {
    await p.getByTestId("restart").click();
    await p.getByText("have it at hand").waitFor();
    await p.getByTestId("confirm").click();
    await p.getByText("type the recovery passphrase at the machine's screen").waitFor();
    await p.getByText("This page comes back by itself").waitFor({ state: "detached", timeout: 60_000 });
    await p.getByTestId("version-running").waitFor();
    await p.getByTestId("shutdown").click();
    await p.getByTestId("confirm").click();
    await p.getByText("Switch it on again by its button").waitFor();
    await deadline(until("the program ends", () => !existsSync(`/proc/${server.pid}/exe`)), 30_000, "the machine did not shut down");
    assert.deepEqual(ada.problems, []);
});
