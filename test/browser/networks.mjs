// Two people who call each other in browsers, for TestNetworks in test/calls: it makes the networks, each person's in a
// namespace of its own, and says by lines on standard input what to do. What they saw goes to standard output, as lines.
//
//     networks.mjs SERVER CLAIM-CODE PASSWORD NAMESPACE NAMESPACE
//
// "call" has alice call bob, who has no camera, and his browser tells nobody its addresses; "camera" gives him one for the
// calls after that. A call lasts for as many seconds as the line says.
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromiumPath, keepEvidence, openBrowser, sleep, until } from "./lib.mjs";

const [server, code, password, ...namespaces] = process.argv.slice(2);
const dir = mkdtempSync(join(tmpdir(), "holdfast-networks-"));
const real = chromiumPath();
const people = [];
let camera = false; // whether bob has one

async function open(name, i, options) {
    const wrapper = join(dir, `chromium-${name}`);
    writeFileSync(wrapper, `#!/bin/sh\nexec ip netns exec ${namespaces[i]} ${real} "$@"\n`);
    chmodSync(wrapper, 0o755);
    process.env.CHROMIUM = wrapper;
    // Certificates count: TURN over TLS knows no exceptions.
    people[i] = await openBrowser(name, { ignoreHTTPSErrors: false, ...options });
    const p = people[i].page;
    if (i === 0) await claim(people[i]);
    await p.goto(`${server}/?login`);
    await p.locator("#username").fill(name);
    await p.locator("#password").fill(password);
    await p.locator("form:has(#password) button[type=submit]").click();
    await p.getByTestId("start-menu").waitFor({ timeout: 60_000 });
    return p;
}

// claim sets the server up, by a third person.
async function claim({ page, context }) {
    await page.goto(`${server}/setup`);
    for (const [what, body] of [
        ["claim", { code }],
        ["finish", { organisation: "Demo", server_name: new URL(server).hostname, tls: { mode: "own-ca" }, admin: { localpart: "carol", display_name: "Carol", password } }],
    ]) {
        const said = await page.evaluate(async ([what, body]) => {
            const r = await fetch(`/api/setup/${what}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
            return r.ok ? "" : `${what}: ${r.status} ${await r.text()}`;
        }, [what, body]);
        if (said) throw new Error(said);
    }
    await context.clearCookies();
}

async function meet() {
    const a = await open("alice", 0);
    const b = await open("bob", 1, { guarded: true, permissions: ["clipboard-read"] });
    await a.getByTestId("start-menu").click();
    await a.getByTestId("start-dm").click();
    await a.getByTestId("people-search").fill("bob");
    await a.getByTestId("people-result").first().click();
    await a.getByTestId("composer").fill("Hello Bob");
    await a.keyboard.press("Enter");
    await b.getByTestId("room-item").first().click({ timeout: 60_000 });
    await b.getByTestId("invite-accept").click();
    await b.getByTestId("composer").waitFor({ timeout: 60_000 });
}

// look tells what a person's connections to the relay were told of and go over, and what came in by them.
async function look(person) {
    const frame = person.page.frames().find((f) => f.url().includes("/element-call/"));
    if (!frame) return undefined;
    return frame.evaluate(async () => {
        const out = { Audio: 0, Frames: 0, Local: [], Over: [], Remote: [], RemoteAddress: [], Servers: [], Offered: [], Preferred: {}, Own: [] };
        const add = (list, x) => x && !list.includes(x) && list.push(x);
        const candidates = (sdp) => [...(sdp ?? "").matchAll(/^a=candidate:\S+ \d+ (\S+) (\d+) (\S+)/gm)];
        for (const pc of window.__peers ?? []) {
            if (pc.connectionState === "closed") continue;
            for (const s of pc.getConfiguration().iceServers ?? []) for (const u of [s.urls].flat()) add(out.Servers, u);
            for (const [, protocol, priority, address] of candidates(pc.remoteDescription?.sdp)) {
                add(out.Offered, address);
                if (protocol.toLowerCase() === "udp") out.Preferred[address] = Math.max(out.Preferred[address] ?? 0, Number(priority));
            }
            for (const [, protocol, , address] of candidates(pc.localDescription?.sdp)) add(out.Own, `${protocol.toLowerCase()} ${address}`);
            const stats = await pc.getStats();
            for (const r of stats.values()) {
                if (r.type === "inbound-rtp" && r.kind === "video") out.Frames += r.framesDecoded ?? 0;
                if (r.type === "inbound-rtp" && r.kind === "audio") out.Audio += r.packetsReceived ?? 0;
                if (r.type !== "transport" || !r.selectedCandidatePairId) continue;
                const pair = stats.get(r.selectedCandidatePairId);
                const [local, remote] = [stats.get(pair?.localCandidateId), stats.get(pair?.remoteCandidateId)];
                if (!local || !remote) continue;
                add(out.Local, local.candidateType);
                add(out.Over, local.candidateType === "relay" ? local.relayProtocol : local.protocol);
                add(out.Remote, remote.candidateType);
                add(out.RemoteAddress, remote.address);
            }
        }
        return out;
    });
}

// flows reports whether everything that should come to a person has come since before.
const flows = (now, before, i) => now && (i === 0 && !camera ? true : now.Frames > (before?.Frames ?? 0) && now.Audio > (before?.Audio ?? 0));

async function call(seconds) {
    const [a, b] = people.map((p) => p.page);
    await a.getByTestId("start-call").click();
    await b.getByTestId("call-answer").click({ timeout: 60_000 });
    const both = () => Promise.all(people.map(look));
    const began = Date.now();
    const first = await until("media flows", async () => { const now = await both(); return now.every((n, i) => flows(n, undefined, i)) && now; }, 120_000, 250);
    const took = (Date.now() - began) / 1000;
    let last = first;
    for (let left = seconds; left > 0; left -= 5) {
        await sleep(5000);
        const now = await both();
        for (const [i, n] of now.entries()) if (!flows(n, last[i], i)) throw new Error(`nothing new came to ${people[i].name}: ${JSON.stringify([last[i], n])}`);
        last = now;
    }
    for (const [i, n] of last.entries()) [n.Audio, n.Frames] = [n.Audio - first[i].Audio, n.Frames - first[i].Frames];
    await a.getByTestId("call-hangup").click();
    // The call of two is over for bob with that.
    for (const p of [a, b]) await p.getByTestId("call").waitFor({ state: "detached", timeout: 60_000 });
    for (const n of last) {
        n.Own.sort();
        for (const k of ["Local", "Over", "Remote", "RemoteAddress"]) n[k] = n[k].join(", ");
        n.Servers = [...new Set(n.Servers.map((u) => /^[a-z]+:(\[[^\]]*\]|[^:?]*)/.exec(u)?.[1] ?? u))];
        n.Took = took;
        n.Token = true;
    }
    return last;
}

try {
    await meet();
    console.log("ready");
    for await (const line of createInterface({ input: process.stdin })) {
        const [what, seconds] = line.split(" ");
        if (what === "camera") {
            camera = true;
            await people[1].context.grantPermissions(["camera", "microphone", "clipboard-read"]);
        }
        console.log(`seen ${JSON.stringify(await call(Number(seconds)))}`);
    }
} catch (e) {
    console.log(`failed ${String(e).replaceAll("\n", " ")}`);
    await keepEvidence("networks", people);
    process.exitCode = 1;
} finally {
    await Promise.all(people.map((p) => p?.browser.close().catch(() => undefined)));
    rmSync(dir, { recursive: true, force: true });
}
