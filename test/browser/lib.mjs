// What the end-to-end tests share: the real program on an empty folder, real browsers, and proofs of failure.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
const require = createRequire(join(root, "web/ui/package.json"));

/** The folder for screenshots and logs of a failed run. */
export const evidence = process.env.HOLDFAST_E2E_EVIDENCE ?? join(tmpdir(), "holdfast-e2e");
export const binary = process.env.HOLDFAST_BIN ?? join(root, "bin/holdfast");

export function chromiumPath() {
    const found = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((p) => p && existsSync(p));
    return found;
}

/** missing says what the tests cannot run without, or undefined. Under CI=true that is a failure, else a skip. */
export function missing() {
    if (!existsSync(binary)) return `${binary} is missing: run make build`;
    if (!chromiumPath()) return "Chromium is missing: install the package chromium, or set CHROMIUM to a browser";
    try {
        require.resolve("playwright-core");
    } catch {
        return "playwright-core is missing: run npm ci in web/ui";
    }
    return undefined;
}

export function skipReason() {
    const why = missing();
    if (why && process.env.CI === "true") throw new Error(why);
    return why ?? false;
}

export async function freePorts(n) {
    const servers = await Promise.all(
        Array.from({ length: n }, () => new Promise((ok, no) => { const s = createServer(); s.once("error", no); s.listen(0, "127.0.0.1", () => ok(s)); })),
    );
    const ports = servers.map((s) => s.address().port);
    await Promise.all(servers.map((s) => new Promise((ok) => s.close(ok))));
    return ports;
}

// Variables that begin with HOLDFAST_ are settings of the program; ours are not.
const withoutSettings = (env) => Object.fromEntries(Object.entries(env).filter(([k]) => !k.startsWith("HOLDFAST_")));

/** startServer runs the program on an empty folder and waits until it is ready; {http} in its arguments is its port. */
export async function startServer(extra = [], program = binary) {
    const data = mkdtempSync(join(tmpdir(), "holdfast-e2e-data-"));
    const [http, https, metrics] = await freePorts(3);
    mkdirSync(evidence, { recursive: true });
    const log = join(evidence, "server.log");
    const args = ["serve", "--data", data, ...Object.entries({ "listen.http": `127.0.0.1:${http}`, "listen.https": `:${https}`, "listen.metrics": `127.0.0.1:${metrics}` }).flatMap(([k, v]) => ["--set", `${k}=${v}`]), ...extra.map((x) => x.replace("{http}", http))];
    const child = spawn(program, args, { stdio: ["ignore", "pipe", openSync(log, "w")], env: withoutSettings(process.env) });
    let out = "";
    child.stdout.setEncoding("utf8");
    child.stdout.on("data", (d) => (out += d));
    const exited = new Promise((ok) => child.once("exit", (code, signal) => ok(`exit code ${code ?? signal}`)));
    const base = `http://localhost:${http}`;
    const ready = async () => {
        for (;;) {
            if (child.exitCode !== null) return;
            try {
                const r = await fetch(`${base}/api/setup`);
                if (r.ok && /is ready/.test(out)) return;
            } catch {}
            await sleep(50);
        }
    };
    await deadline(Promise.race([ready(), exited]), 20_000, "the server did not become ready");
    if (child.exitCode !== null) throw new Error(`the server stopped at once:\n${out}\n${readFileSync(log, "utf8")}`);
    return {
        base,
        data,
        http,
        https,
        metrics: `http://127.0.0.1:${metrics}/metrics`,
        pid: child.pid,
        log,
        get output() {
            return out;
        },
        get claimCode() {
            return /^\s+([0-9A-Z]{4}-[0-9A-Z]{4}-[0-9A-Z]{4})\s*$/m.exec(out)?.[1];
        },
        rssBytes() {
            return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))?.[1]) * 1024;
        },
        async stop() {
            child.kill("SIGTERM");
            const how = await deadline(exited, 15_000, "the server did not stop after SIGTERM");
            rmSync(data, { recursive: true, force: true });
            return how;
        },
    };
}

/** startClaimed is startServer with an administrator, for tests that begin after the setup. */
export async function startClaimed(localpart, password, extra = []) {
    const server = await startServer(["--set", "server_name=demo.example", "--set", "sfu.enabled=false", ...extra]);
    const setup = async (path, body, cookie) => {
        const r = await fetch(`${server.base}/api/setup/${path}`, { method: "POST", headers: { "content-type": "application/json", ...(cookie ? { cookie } : {}) }, body: JSON.stringify(body) });
        if (!r.ok) throw new Error(`setup ${path}: ${r.status} ${await r.text()}`);
        return r.headers.getSetCookie()[0]?.split(";")[0];
    };
    const cookie = await setup("claim", { code: server.claimCode });
    await setup("finish", { organisation: "Demo", server_name: "demo.example", tls: { mode: "own-ca" }, admin: { localpart, display_name: localpart, password } }, cookie);
    return server;
}

export const sleep = (ms) => new Promise((ok) => setTimeout(ok, ms));

export async function deadline(promise, ms, what) {
    let timer;
    try {
        return await Promise.race([promise, new Promise((_, no) => (timer = setTimeout(() => no(new Error(`${what} within ${ms / 1000} s`)), ms)))]);
    } finally {
        clearTimeout(timer);
    }
}

/** until calls probe until it gives something true. */
export async function until(what, probe, ms = 20_000, every = 200) {
    const end = Date.now() + ms;
    let last;
    for (;;) {
        try {
            last = await probe();
            if (last) return last;
        } catch (e) {
            last = e;
        }
        if (Date.now() > end) throw new Error(`${what}: not within ${ms / 1000} s (last: ${last instanceof Error ? last.message : JSON.stringify(last)})`);
        await sleep(every);
    }
}

// Everything that a browser would say to its maker on its own account is switched off, so that what is left to count
// is what our pages cause.
const quiet = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-client-side-phishing-detection",
    "--disable-features=OptimizationHints,OptimizationGuideModelDownloading,MediaRouter,DialMediaRouteProvider,Translate,AutofillServerCommunication,CertificateTransparencyComponentUpdater,InterestFeedContentSuggestions,NetworkTimeServiceQuerying,AsyncDns,WebRtcHideLocalIpsWithMdns",
    "--no-pings",
    "--no-first-run",
    "--metrics-recording-only",
    "--safebrowsing-disable-auto-update",
    // No switch stops its questions to the servers of its maker (redirector.gvt1.com is asked for updates of its parts,
    // in one run of five); these names it cannot resolve. A page that asked for one would be seen all the same.
    "--host-resolver-rules=MAP *.google.com ~NOTFOUND, MAP *.googleapis.com ~NOTFOUND, MAP *.gstatic.com ~NOTFOUND, MAP *.gvt1.com ~NOTFOUND",
];
const media = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--autoplay-policy=no-user-gesture-required", "--mute-audio"];

/**
 * openBrowser starts a browser process of its own for one person. One that is guarded gives its camera only to pages that
 * have the permission, and hides its addresses from the others, as browsers do for people; the rest give it to everybody.
 */
export async function openBrowser(name, { guarded = false, ...options } = {}, args = []) {
    const { chromium } = require("playwright-core");
    let all = [...quiet, ...media, ...args];
    if (guarded) all = all.filter((a) => a !== "--use-fake-ui-for-media-stream").map((a) => a.replace(",WebRtcHideLocalIpsWithMdns", ""));
    const browser = await chromium.launch({ executablePath: chromiumPath(), args: all });
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, locale: "en-GB", ignoreHTTPSErrors: true, permissions: ["camera", "microphone", "clipboard-read", "clipboard-write"], acceptDownloads: true, ...options });
    context.setDefaultTimeout(90_000); // where much else runs, a page takes its time
    // Peer connections are kept where a test can ask them for statistics, in every frame.
    await context.addInitScript(() => {
        const Original = window.RTCPeerConnection;
        if (!Original) return;
        window.__peers = [];
        window.RTCPeerConnection = class extends Original {
            constructor(...args) {
                super(...args);
                window.__peers.push(this);
            }
        };
    });
    const page = await context.newPage();
    const began = Date.now();
    const person = { name, browser, context, page, hosts: new Set(), problems: [], messages: [] };
    context.on("request", (r) => {
        const u = new URL(r.url());
        if (/^(https?|wss?):$/.test(u.protocol)) person.hosts.add(u.hostname);
    });
    context.on("console", (m) => {
        person.messages.push(`${((Date.now() - began) / 1000).toFixed(1)} ${m.type()}: ${m.text()}`);
        if (/Content Security Policy/i.test(m.text())) person.problems.push(m.text());
    });
    context.on("weberror", (e) => person.problems.push(`uncaught: ${e.error().message}`));
    return person;
}

const axe = () => readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

/**
 * obstacles lists what axe-core finds on a page that keeps people from using it (WCAG 2.2 A and AA), in light and dark.
 * Left out is where React Aria says for some seconds what a button did that may be gone by then.
 */
export async function obstacles(page) {
    const found = [];
    for (const colorScheme of ["dark", "light"]) {
        await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
        // Colours fade, on a busy machine for longer than one would wait; a spinner never ends.
        await page.evaluate(async () => {
            // A colour that is inherited begins to fade when its parent's has changed, so
            // what is finished may begin others.
            const fading = () => document.getAnimations().filter((a) => a.effect?.getComputedTiming().endTime !== Infinity && a.playState !== "finished");
            for (let still = 0; still < 3; ) {
                await new Promise((ok) => requestAnimationFrame(ok));
                const list = fading();
                still = list.length === 0 ? still + 1 : 0;
                for (const a of list) a.finish();
            }
        });
        await page.evaluate(`window.axe || (() => { ${axe()} })(); undefined`);
        found.push(
            ...(await page.evaluate(async (scheme) => {
                const { violations } = await window.axe.run({ exclude: ["[data-live-announcer]"] }, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"] });
                return violations.flatMap((v) => v.nodes.map((n) => `${scheme}: ${v.id} at ${n.target.join(" ")}: ${n.any[0]?.message ?? n.failureSummary}`));
            }, colorScheme)),
        );
    }
    await page.emulateMedia({ colorScheme: null, reducedMotion: null });
    return found;
}

/** pictures are for whoever changed a page and wants to see it: HOLDFAST_E2E_SHOTS names the folder. */
export async function pictures(page, name) {
    const folder = process.env.HOLDFAST_E2E_SHOTS;
    if (!folder) return;
    mkdirSync(folder, { recursive: true });
    const before = page.viewportSize();
    await page.screenshot({ path: join(folder, `${name}.png`) });
    await page.emulateMedia({ colorScheme: "dark" });
    await page.screenshot({ path: join(folder, `${name}-dark.png`) });
    await page.setViewportSize({ width: 360, height: 740 });
    await page.screenshot({ path: join(folder, `${name}-phone.png`) });
    await page.emulateMedia({ colorScheme: null });
    await page.setViewportSize(before);
}

/** keepEvidence saves what each person sees, and what their browser said. */
export async function keepEvidence(label, people) {
    const { writeFileSync } = await import("node:fs");
    mkdirSync(evidence, { recursive: true });
    for (const p of people) {
        if (!p) continue;
        const file = join(evidence, `${label}-${p.name}`);
        writeFileSync(`${file}.log`, p.messages.join("\n"));
        for (const [i, page] of p.context.pages().entries()) {
            await page.screenshot({ path: `${file}-${i}.png` }).catch(() => undefined);
            writeFileSync(`${file}-${i}.html`, await page.content().catch(() => ""));
            const text = await page.evaluate(() => document.body.innerText).catch((e) => String(e));
            console.error(`${p.name}, page ${i}, ${page.url().replace(/\?.*/, "?…")}:\n${text.slice(0, 500).replace(/^/gm, "    ")}`);
        }
    }
    console.error(`evidence of the failure: ${evidence}`);
}
