// Calls between two browsers, of which one is at the end of a line that is made worse: ringing and declining, keys for
// each participant, sound first where the line is narrow, and a browser that is killed. As root on Linux only: the
// browsers are in network namespaces of their own.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { binary, chromiumPath, keepEvidence, obstacles, openBrowser, pictures, root, skipReason, sleep, startServer, until } from "./lib.mjs";

const self = fileURLToPath(import.meta.url);
const inside = process.env.HOLDFAST_CALLS_NS; // the name of the far namespace, where this runs in the near one

function missing() {
    const why = skipReason();
    if (why) return why;
    const lacks =
        process.getuid?.() !== 0 || spawnSync("ip", ["netns", "list"]).status !== 0
            ? "it needs root, ip(8) and network namespaces"
            : !existsSync("/dev/net/tun")
              ? "the kernel has no TUN devices"
              : spawnSync("go", ["version"]).status !== 0
                ? "go is missing"
                : undefined;
    if (lacks && process.env.CI === "true") throw new Error(lacks);
    return lacks ?? false;
}

function sh(...args) {
    const r = spawnSync(args[0], args.slice(1), { encoding: "utf8" });
    if (r.status !== 0) throw new Error(`${args.join(" ")}: ${r.stderr || r.error}`);
    return r.stdout;
}

if (!inside) {
    const skip = missing();
    test("two people call each other over a bad line", { skip, timeout: 10 * 60_000 }, async (t) => {
        const [near, far] = ["near", "far"].map((n) => `hfcalls-${process.pid}-${n}`);
        for (const ns of [near, far]) {
            sh("ip", "netns", "add", ns);
            t.after(() => spawnSync("ip", ["netns", "del", ns]));
            sh("ip", "-n", ns, "link", "set", "lo", "up");
        }
        const { NODE_TEST_CONTEXT: _, ...env } = process.env;
        const child = spawn("ip", ["netns", "exec", near, process.execPath, "--test", "--test-reporter=spec", self], { env: { ...env, HOLDFAST_CALLS_NS: far, HOLDFAST_CALLS_NEAR: near }, stdio: "inherit" });
        assert.equal(await new Promise((ok) => child.once("exit", ok)), 0, "what the two did failed");
    });
} else story();

function story() {
    const password = "lantern orbit maple 4";
    const dir = mkdtempSync(join(tmpdir(), "holdfast-calls-"));
    let server, ada, grace, second, line, failed = false;
    let graceID, roomID;
    let console_; // Ada's page of the console
    let graceProcesses;

    // rules sets the line's and waits until they hold.
    const good = { DelayMS: 10, Rate: 20_000_000 };
    const said = [];
    const rules = async (r) => {
        const n = said.length;
        line.stdin.write(`${JSON.stringify(r)}\n`);
        await until("the line follows", () => said.length > n);
    };

    function step(name, run) {
        test(name, { timeout: 240_000 }, async (t) => {
            if (failed) return t.skip("an earlier step failed");
            try {
                await run(t);
            } catch (e) {
                failed = true;
                await keepEvidence(`calls-${name.replace(/\W+/g, "-")}`, [ada, grace, second].filter(Boolean));
                throw e;
            }
        });
    }

    before(async () => {
        const program = join(dir, "line");
        const built = spawnSync("go", ["build", "-o", program, "./test/calls/netem/line"], { cwd: root, encoding: "utf8", env: { ...process.env, CGO_ENABLED: "0" } });
        assert.equal(built.status, 0, built.stderr);
        line = spawn(program, [process.env.HOLDFAST_CALLS_NEAR, "hfline0", "10.98.0.1/24", inside, "hfline1", "10.98.0.2/24"], { stdio: ["pipe", "pipe", "inherit"] });
        createInterface({ input: line.stdout }).on("line", (l) => said.push(l));
        await until("the line is there", () => said.includes("ready"));
        await rules(good);

        server = await startServer(["--set", "server_name=demo.example", "--set", "sfu.enabled=true"]);
        const setup = async (what, body, cookie = "") => {
            const r = await fetch(`${server.base}/api/setup/${what}`, { method: "POST", headers: { "content-type": "application/json", cookie }, body: JSON.stringify(body) });
            assert.ok(r.ok, `${what}: ${r.status} ${await r.clone().text()}`);
            return r.headers.getSetCookie()[0]?.split(";")[0];
        };
        const cookie = await setup("claim", { code: server.claimCode });
        await setup("finish", { organisation: "Demo", server_name: "demo.example", tls: { mode: "own-ca" }, admin: { localpart: "ada", display_name: "Ada", password } }, cookie);
        const added = spawnSync(binary, ["user", "add", "grace", "--password-stdin", "--data", server.data], { input: `${password}\n`, encoding: "utf8" });
        assert.equal(added.status, 0, added.stderr);

        // The page with that title is shared without a question. With fake prompts it would be a made-up screen.
        ada = await openBrowser("ada", { guarded: true }, [`--auto-select-tab-capture-source-by-title=${sharedTitle}`]);
        const wrapper = join(dir, "far-chromium");
        writeFileSync(wrapper, `#!/bin/sh\nexec ip netns exec ${inside} ${chromiumPath()} "$@"\n`);
        chmodSync(wrapper, 0o755);
        process.env.CHROMIUM = wrapper;
        const own = descendants(process.pid);
        grace = await openBrowser("grace");
        // Ada's browser may start more, too.
        const adas = () => own.flatMap((pid) => [pid, ...descendants(pid)]);
        graceProcesses = () => descendants(process.pid).filter((pid) => !adas().includes(pid) && isAlive(pid) && cmdline(pid).includes("chrom"));
        // Ringing, and what is said of keys: each message to a device goes out by one of these requests.
        for (const p of [ada, grace]) {
            p.keys = 0;
            p.context.on("request", (r) => {
                if (/\/sendToDevice\/m\.room\.encrypted\//.test(r.url())) p.keys++;
                if (/\/sendToDevice\/io\.element\.call\.encryption_keys\//.test(r.url())) p.clear = true;
            });
        }
    });

    after(async () => {
        await Promise.all([ada, grace, second].map((p) => p?.browser.close().catch(() => undefined)));
        line?.stdin.end();
        if (server) assert.equal(await server.stop(), "exit code 0", "the server must stop cleanly");
        rmSync(dir, { recursive: true, force: true });
    });

    const signIn = async (p, base, name) => {
        await p.goto(`${base}/?login`);
        await p.locator("#username").fill(name);
        await p.locator("#password").fill(password);
        await p.locator("form:has(#password) button[type=submit]").click();
        await p.getByTestId("start-menu").waitFor({ timeout: 60_000 });
    };
    // api asks the server with the page's own session.
    const api = (p, path) =>
        p.evaluate(async (path) => {
            const session = JSON.parse(Object.entries(localStorage).find(([, v]) => v.includes("accessToken"))?.[1] ?? "{}");
            const res = await fetch(`/_matrix/client/v3${path}`, { headers: { authorization: `Bearer ${session.accessToken}` } });
            return { status: res.status, body: await res.json() };
        }, path);
    // inCall lists whom the room shows in the call.
    const inCall = async () => {
        const { body } = await api(ada.page, `/rooms/${encodeURIComponent(roomID)}/state`);
        return body.filter((e) => e.type === "org.matrix.msc3401.call.member" && Object.keys(e.content).length > 0).map((e) => e.sender).sort();
    };
    const onRelay = async () => (await (await fetch(`${server.base}/api/console/status`, { headers: { cookie: (await ada.context.cookies()).map((c) => `${c.name}=${c.value}`).join("; ") } })).json()).calls.participants;

    step("they know each other", async () => {
        await Promise.all([signIn(ada.page, server.base, "ada"), signIn(grace.page, `https://10.98.0.1:${server.https}`, "grace")]);
        const [a, g] = [ada.page, grace.page];
        await a.getByTestId("start-menu").click();
        await a.getByTestId("start-dm").click();
        await a.getByTestId("people-search").fill("grace");
        await a.getByTestId("people-result").first().click();
        await a.getByTestId("composer").fill("Hello Grace");
        await a.keyboard.press("Enter");
        await g.getByTestId("room-item").first().click({ timeout: 30_000 });
        await g.getByTestId("invite-accept").click();
        await g.getByTestId("composer").waitFor({ timeout: 30_000 });
        graceID = "@grace:demo.example";
        roomID = decodeURIComponent(new URL(a.url()).pathname.split("/")[2]);
    });

    step("a call that is declined stops ringing", async () => {
        const [a, g] = [ada.page, grace.page];
        await a.getByTestId("start-call").click();
        await g.getByTestId("call-ringing").waitFor({ timeout: 60_000 });
        await g.getByTestId("call-decline").click();
        await g.getByTestId("call-ringing").waitFor({ state: "detached" });
        // For Ada the call of two is over with that.
        await a.getByTestId("call").waitFor({ state: "detached", timeout: 30_000 });
        await until("nobody is in the call", async () => (await inCall()).length === 0);
    });

    // Grace's second device rings too, and falls silent with the first one: when that declines, and when it answers.
    step("a call rings on both devices of a person, until one of them has declined", async () => {
        const [a, g] = [ada.page, grace.page];
        second = await openBrowser("grace-second");
        await signIn(second.page, `https://10.98.0.1:${server.https}`, "grace");
        await second.page.getByTestId("room-item").first().waitFor({ timeout: 60_000 });
        await a.getByTestId("start-call").click();
        await Promise.all([g, second.page].map((p) => p.getByTestId("call-ringing").waitFor({ timeout: 60_000 })));
        await second.page.getByTestId("call-decline").click();
        await Promise.all([g, second.page].map((p) => p.getByTestId("call-ringing").waitFor({ state: "detached", timeout: 20_000 })));
        await a.getByTestId("call").waitFor({ state: "detached", timeout: 30_000 });
        await until("nobody is in the call", async () => (await inCall()).length === 0);
    });

    step("each participant's media is encrypted with a key of its own", async () => {
        const [a, g] = [ada.page, grace.page];
        for (const p of [ada, grace]) p.keys = 0;
        // Ada's keys are held back at first: what comes of her media cannot be read then.
        const out = /\/sendToDevice\/m\.room\.encrypted\//;
        const held = [];
        await ada.context.route(out, (r) => void held.push(r));
        await a.getByTestId("start-call").click();
        await Promise.all([g, second.page].map((p) => p.getByTestId("call-ringing").waitFor({ timeout: 60_000 })));
        await g.getByTestId("call-answer").click();
        // It ends on the other device when the answer has come into the call, long before a call stops ringing by itself.
        await second.page.getByTestId("call-ringing").waitFor({ state: "detached", timeout: 20_000 });
        await second.browser.close();
        await until("Ada sees Grace", async () => (await received(a)).frames > 10, 120_000, 500);
        await until("Ada's media comes to Grace", async () => (await received(g)).packets > 200, 60_000, 500);
        assert.equal((await received(g)).frames, 0, "Grace saw pictures for which she has no key");
        assert.ok(held.length > 0, "Ada sent no key");
        await Promise.all(held.map((r) => r.continue()));
        await ada.context.unroute(out);
        await until("Grace has the key", async () => (await received(g)).frames > 10, 120_000, 500);
        await until("both hear", async () => (await received(a)).audio > 0 && (await received(g)).audio > 0, 60_000, 500);
        assert.deepEqual(await inCall(), ["@ada:demo.example", graceID]);
        for (const p of [ada, grace]) {
            assert.match(p.page.frames().find((f) => f.url().includes("/element-call/")).url(), /perParticipantE2EE=true/);
            assert.ok(p.keys > 0, `${p.name} sent no key`);
            assert.ok(!p.clear, `${p.name} sent a key in the clear`);
        }
    });

    // rates tells what came to Grace in some seconds.
    const rates = async (seconds) => {
        const from = await received(grace.page);
        await sleep(seconds * 1000);
        const to = await received(grace.page);
        return {
            kilobits: ((to.bytes - from.bytes) * 8) / seconds / 1000,
            frames: (to.frames - from.frames) / seconds,
            width: to.width,
            concealed: (to.concealed - from.concealed) / (to.samples - from.samples),
            lost: (to.lost - from.lost) / (to.audio - from.audio + to.lost - from.lost),
        };
    };
    const told = (t, line_, r) => t.diagnostic(`${line_}: ${r.width} wide, ${r.frames.toFixed(0)} frames/s, ${r.kilobits.toFixed(0)} kbit/s; of sound ${(100 * r.lost).toFixed(1)} % lost, ${(100 * r.concealed).toFixed(1)} % made up`);

    step("a shared screen can be read, also where the line is narrow", async (t) => {
        const [a, g] = [ada.page, grace.page];
        await until("Ada's camera is large", async () => (await screenAndCamera(g)).camera?.width > 320, 90_000, 500);
        const shared = await ada.context.newPage();
        await shared.setViewportSize(sharedSize);
        await shared.setContent(sharedPage);
        await a.bringToFront();
        await g.setViewportSize({ width: 1920, height: 1200 });
        const share = elementCall(a).getByTestId("incall_screenshare");
        await share.click();

        // It comes as large as the page is, its finest lines can be told apart, and it goes on.
        const whole = ({ screen, lines }) => screen?.width === sharedSize.width && screen.height === sharedSize.height && lines > 0.95 * sharedLines;
        const steady = async (line_, frames) => {
            let from; // since when every look has shown it whole
            const to = await until(
                `the screen is whole and goes on, ${line_}`,
                async () => {
                    const now = await screenAndCamera(g);
                    from = whole(now) ? (from ?? now) : undefined;
                    return from && now.screen.frames >= from.screen.frames + frames && now.camera?.frames > from.camera?.frames && now;
                },
                90_000,
                250,
            );
            t.diagnostic(`${line_}: the screen ${to.screen.width}×${to.screen.height}, ${to.lines} of ${sharedLines} lines; the camera ${to.camera.width}×${to.camera.height}`);
            return to;
        };
        const good_ = await steady("a good line", 15);
        assert.ok(good_.camera.width <= 320, `beside the screen the camera's picture is ${good_.camera.width} wide`);
        await pictures(g, "call-screen");
        await rules({ DelayMS: 10, Rate: 2_500_000 });
        const narrow = await steady("2.5 Mbit/s", 30);
        assert.ok(narrow.camera.width <= 320, `beside the screen the camera's picture is ${narrow.camera.width} wide`);

        await rules(good);
        await share.click();
        await until("the screen is gone for Grace", async () => !(await screenAndCamera(g)).shown, 30_000);
        await shared.close();
        await g.setViewportSize({ width: 1280, height: 800 });
        const { frames } = await received(g);
        await until("Ada's camera goes on", async () => (await received(g)).frames > frames + 10, 30_000);
    });

    step("where the line is narrow, sound comes first", async (t) => {
        const narrowLine = 200; // kbit/s
        const before = await until("the picture takes more than the narrow line has", async () => {
            const r = await rates(2);
            return r.kilobits > 1.25 * narrowLine && r;
        }, 90_000, 0);
        told(t, "a good line", before);
        await rules({ DelayMS: 50, Rate: 1000 * narrowLine });
        await until("there is less of the picture", async () => (await rates(1)).kilobits < narrowLine, 60_000, 0);
        await until("sound is whole", async () => (await rates(2)).concealed < 0.03, 60_000, 0);
        const narrow = await rates(4);
        told(t, `${narrowLine} kbit/s`, narrow);
        assert.ok(narrow.concealed < 0.05, `${(100 * narrow.concealed).toFixed(1)} % of the sound had to be made up`);
        assert.ok(narrow.kilobits < narrowLine, `the picture takes ${narrow.kilobits} kbit/s`);
        assert.ok(narrow.frames > 0, "the picture stands still");
        if (process.env.HOLDFAST_LONG) {
            await rules(good);
            await until("the picture is back", async () => (await rates(2)).kilobits > 0.7 * before.kilobits, 120_000, 0);
            await rules({ Loss: 0.05, DelayMS: 100, Rate: 1_000_000 });
            await sleep(5000);
            const bad = await rates(20);
            told(t, "5 % loss, 100 ms, 1 Mbit/s", bad);
            assert.ok(bad.lost < 0.1, `${(100 * bad.lost).toFixed(1)} % of the sound is lost`);
            assert.ok(bad.frames > 2, "the picture stands still");
        }
        await rules(good);
    });

    step("the console shows the call, and what goes over the line", async () => {
        const c = (console_ = await ada.context.newPage());
        await c.goto(`${server.base}/console/calls`);
        await c.getByTestId("call-item").locator("button").first().click();
        const grace_ = c.getByTestId("call-person").filter({ hasText: "grace" });
        await until("the call is described", async () => /Ada/.test(await c.getByTestId("call-item").innerText()) && (await c.getByTestId("call-person").count()) === 2);
        await until("what goes over the line is measured", async () => /UDP IPv4/.test(await grace_.innerText()) && /Round trip\s+[1-9]/.test(await grace_.innerText()) && /Mbit\/s|[1-9]\d+ kbit\/s/.test(await grace_.innerText()), 60_000);
        await until("the pictures' sizes are there", async () => /Camera[^\n]*\d+×\d+ /.test(await grace_.getByTestId("call-media").innerText()) && /Receives 1 picture in size/.test(await grace_.innerText()), 60_000);
        assert.match(await grace_.innerText(), /Microphone \(/);
        assert.match(await grace_.innerText(), /@grace:demo\.example · .*Chrome/i);
        // A line that gets worse shows, without a reload.
        await rules({ DelayMS: 150, Loss: 0.1, Rate: 20_000_000 });
        await until("the worse line shows", async () => /Round trip\s+(2[5-9]\d|[3-9]\d\d) ms/.test(await grace_.innerText()) && [...(await grace_.innerText()).matchAll(/([\d.]+)% lost/g)].some((m) => Number(m[1]) >= 3), 90_000);
        assert.deepEqual(await obstacles(c), []);
        await pictures(c, "console-calls");
        await rules(good);
        assert.match(await c.getByTestId("calls-relay").innerText(), /Runs for [\s\S]*UDP \d+, TCP \d+, TURN \d+/);
        await ada.page.bringToFront();
    });

    // As in another Wi-Fi: the old address is gone, and with it every connection. Element Call must notice by the
    // answers of signalling that do not come: the browser itself gives the old connection up after fifteen seconds.
    step("the call goes on from another address", async (t) => {
        sh("ip", "-n", inside, "addr", "del", "10.98.0.2/24", "dev", "hfline1");
        sh("ip", "-n", inside, "addr", "add", "10.98.0.3/24", "dev", "hfline1");
        const began = Date.now();
        const [a, g] = [await received(ada.page), await received(grace.page)];
        await until(
            "both see and hear again",
            async () => {
                const [na, ng] = [await received(ada.page), await received(grace.page)];
                return na.frames > a.frames + 5 && ng.frames > g.frames + 5 && na.audio > a.audio + 25 && ng.audio > g.audio + 25;
            },
            60_000,
        );
        t.diagnostic(`sound and picture again after ${((Date.now() - began) / 1000).toFixed(1)} s`);
        assert.deepEqual(await inCall(), ["@ada:demo.example", graceID]);
    });

    step("a browser that is killed is out of the call within fifteen seconds", async (t) => {
        const pids = graceProcesses();
        assert.ok(pids.length > 1, `processes of the browser: ${pids}`);
        for (const pid of pids) process.kill(pid, "SIGKILL");
        const began = Date.now();
        await until("the relay has one participant", async () => (await onRelay()) === 1, 15_000);
        t.diagnostic(`gone from the relay after ${((Date.now() - began) / 1000).toFixed(1)} s`);
        await until("the room shows nobody else in the call", async () => !(await inCall()).includes(graceID), 15_000 - (Date.now() - began));
        t.diagnostic(`gone from the room after ${((Date.now() - began) / 1000).toFixed(1)} s`);
    });

    step("somebody is taken out of a call, and a call is ended, from the console", async () => {
        const begin = async () => {
            await ada.page.bringToFront();
            await ada.page.reload();
            await ada.page.getByTestId("start-call").click({ timeout: 60_000 });
            await until("Ada is in a call", async () => (await onRelay()) === 1, 60_000);
            await console_.bringToFront();
            await console_.getByTestId("call-item").waitFor();
        };
        // Element Call says "Reconnecting..." to whom the relay took out, and is in no call.
        const over = async () => {
            await console_.getByText("No calls at this moment").waitFor();
            await until("the call is over", async () => (await onRelay()) === 0, 30_000);
        };
        // A call of two ends when one leaves.
        await over();
        assert.deepEqual(await obstacles(console_), []);
        await pictures(console_, "console-calls-none");
        await begin(); // in the same room, which is open in the console since
        await console_.getByTestId("call-remove").click();
        await console_.getByTestId("confirm").click();
        await over();
        await begin();
        await console_.getByTestId("call-end").click();
        await console_.getByTestId("confirm").click();
        await over();
        await console_.getByTestId("calls-test-run").click();
        await console_.locator("[data-testid=calls-test][data-state=good]").waitFor();
        for (const hop of ["token", "signalling", "udp", "tcp", "turn", "https"]) assert.equal(await console_.getByTestId(`hop-${hop}`).getAttribute("data-ok"), "true", await console_.getByTestId("calls-test").innerText());
        assert.deepEqual(await obstacles(console_), []);
        await console_.getByTestId("calls-test").scrollIntoViewIfNeeded();
        await pictures(console_, "console-calls-test");
        const log = readFileSync(server.log, "utf8");
        for (const operation of ["removeFromCall", "endCall"]) assert.match(log, new RegExp(`an administrator acted.*@ada:demo.example.*${operation}`), "what an administrator does is logged");
    });
}

const elementCall = (p) => p.frames().find((f) => f.url().includes("/element-call/"));

// What Ada shares: fine lines, which a smaller picture does not show, and text that changes, for which Chromium sends
// about 1 Mbit/s.
const sharedTitle = "Figures of the third quarter";
const sharedSize = { width: 1920, height: 1080 };
const sharedLines = 320; // black ones, as wide as the white ones between them
const sharedPage = `<!doctype html><title>${sharedTitle}</title>
<style>
    body { margin: 0; background: white; color: black; font: 20px/28px sans-serif; overflow: hidden; }
    #lines { height: 200px; background: repeating-linear-gradient(to right, black 0 3px, white 3px 6px); }
    main { padding: 0 40px; columns: 2; }
</style>
<div id="lines"></div>
<h1>${sharedTitle}: <span id="count">0</span></h1>
<main></main>
<script>
    const rows = Array.from({ length: 60 }, (_, i) => document.querySelector("main").appendChild(document.createElement("div")));
    // The numbers' digits differ, so that each change is new to the encoder.
    const write = (n, i) => (rows[i].textContent = "Row " + n + ": " + Math.sin(n).toFixed(12) + " of " + Math.cos(n).toFixed(12));
    rows.forEach((_, i) => write(i, i));
    let n = 0;
    setInterval(() => {
        document.querySelector("#count").textContent = String(++n);
        for (let i = 0; i < 3; i++) write(100 * i + n, i);
    }, 100);
</script>`;

// screenAndCamera tells what comes of a shared screen and of the one camera, and how many of the finest lines are seen.
async function screenAndCamera(p) {
    return elementCall(p)?.evaluate(async () => {
        const video = document.querySelector('video[data-lk-source="screen_share"]');
        const screen = video?.srcObject?.getVideoTracks()[0]?.id;
        const out = { lines: 0, shown: Boolean(video) };
        for (const pc of window.__peers ?? []) {
            for (const r of (await pc.getStats()).values()) {
                if (r.type !== "inbound-rtp" || r.kind !== "video") continue;
                out[r.trackIdentifier === screen ? "screen" : "camera"] = { width: r.frameWidth ?? 0, height: r.frameHeight ?? 0, frames: r.framesDecoded ?? 0, bytes: r.bytesReceived ?? 0 };
            }
        }
        if (video?.videoWidth) {
            const canvas = new OffscreenCanvas(video.videoWidth, 1);
            const to = canvas.getContext("2d");
            to.drawImage(video, 0, 100, video.videoWidth, 1, 0, 0, video.videoWidth, 1);
            const { data } = to.getImageData(0, 0, video.videoWidth, 1);
            // Grey is neither: a line counts when it is dark after something light.
            for (let i = 0, light = true; i < data.length; i += 4) {
                if (data[i + 1] > 170) light = true;
                else if (data[i + 1] < 85 && light) [light, out.lines] = [false, out.lines + 1];
            }
        }
        return out;
    });
}

// received sums what came in by all peer connections of the call's frame.
async function received(p) {
    const frame = p.frames().find((f) => f.url().includes("/element-call/"));
    if (!frame) return { packets: 0, frames: 0, audio: 0 };
    return frame.evaluate(async () => {
        const sum = { packets: 0, frames: 0, width: 0, bytes: 0, audio: 0, lost: 0, concealed: 0, samples: 0 };
        for (const pc of window.__peers ?? []) {
            for (const r of (await pc.getStats()).values()) {
                if (r.type !== "inbound-rtp") continue;
                if (r.kind === "video") {
                    sum.packets += r.packetsReceived ?? 0;
                    sum.frames += r.framesDecoded ?? 0;
                    sum.width = Math.max(sum.width, r.frameWidth ?? 0);
                    sum.bytes += r.bytesReceived ?? 0;
                } else {
                    sum.audio += r.packetsReceived ?? 0;
                    sum.lost += r.packetsLost ?? 0;
                    sum.concealed += r.concealedSamples ?? 0;
                    sum.samples += r.totalSamplesReceived ?? 0;
                }
            }
        }
        return sum;
    });
}

const stat = (pid) => {
    try {
        const s = readFileSync(`/proc/${pid}/stat`, "utf8");
        const [state, parent] = s.slice(s.lastIndexOf(")") + 2).split(" ");
        return { state, parent: Number(parent) };
    } catch {
        return undefined; // it has ended
    }
};
const cmdline = (pid) => {
    try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8");
    } catch {
        return "";
    }
};
const isAlive = (pid) => (stat(pid)?.state ?? "Z") !== "Z";

// descendants lists a process's children, and theirs.
function descendants(of) {
    const parents = new Map(readdirSync("/proc").filter((d) => /^\d+$/.test(d)).map((d) => [Number(d), stat(d)?.parent]));
    const out = [];
    for (const queue = [of]; queue.length; ) {
        const p = queue.pop();
        for (const [pid, parent] of parents) if (parent === p) (out.push(pid), queue.push(pid));
    }
    return out;
}
