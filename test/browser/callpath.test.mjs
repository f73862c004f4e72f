// The console's test of calls from the administrator's own browser: where all is well, and where the relay names addresses
// to clients that lead nowhere, so that nothing but TURN at the HTTPS port is left.
import assert from "node:assert/strict";
import { test } from "node:test";
import { freePorts, keepEvidence, obstacles, openBrowser, pictures, skipReason, startClaimed } from "./lib.mjs";

const skip = skipReason();
const password = "lantern orbit maple 4";

async function tried(name, settings, check) {
    const [udp, tcp, turn] = await freePorts(3);
    const server = await startClaimed("ada", password, ["--set", "sfu.enabled=true", "--set", `sfu.udp_port=${udp}`, "--set", `sfu.tcp_port=${tcp}`, "--set", `sfu.turn_port=${turn}`, ...settings.flatMap((s) => ["--set", s])]);
    const ada = await openBrowser("ada");
    try {
        const p = ada.page;
        await p.goto(`https://localhost:${server.https}/console/calls`);
        await p.getByText("Sign in", { exact: true }).click();
        await p.locator("#username").fill("ada");
        await p.locator("#password").fill(password);
        await p.locator("form:has(#password) button[type=submit]").click();
        await p.getByTestId("calls-from-run").click();
        await p.locator("[data-testid=calls-from][data-state=good], [data-testid=calls-from][data-state=bad], [data-testid=calls-from][data-state=trouble]").waitFor();
        const text = await p.getByTestId("calls-from").innerText();
        const ways = {};
        for (const way of ["udp", "tcp", "turn", "https"]) {
            const item = p.getByTestId(`from-${way}`);
            ways[way] = { ok: await item.getAttribute("data-ok"), text: await item.innerText() };
        }
        await p.getByTestId("calls-from").scrollIntoViewIfNeeded();
        await pictures(p, `console-calls-from-${name}`);
        check(ways, text, { udp, tcp, turn });
        assert.deepEqual(await obstacles(p), []);
        assert.deepEqual(ada.problems, []);
    } catch (e) {
        await keepEvidence(`callpath-${name}`, [ada]);
        throw e;
    } finally {
        await ada.browser.close();
        assert.equal(await server.stop(), "exit code 0", "the server must stop cleanly");
    }
}

test("each way by which media goes works from the browser", { skip, timeout: 180_000 }, async () => {
    await tried("good", [], (ways, text, ports) => {
        assert.match(text, /Everything works from here. Calls from this browser go by: Media over UDP/, text);
        for (const [way, w] of Object.entries(ways)) assert.equal(w.ok, "true", `${way}: ${text}`);
        assert.match(ways.udp.text, new RegExp(`UDP port ${ports.udp} \\(.*:${ports.udp}\\)`));
        assert.match(ways.tcp.text, new RegExp(`TCP port ${ports.tcp} \\(.*:${ports.tcp}\\)`));
        assert.match(ways.turn.text, new RegExp(`TURN at UDP port ${ports.turn}`));
        assert.match(ways.https.text, /TURN at the HTTPS port|TURN over TLS/);
    });
});

test("what is in the way is named", { skip, timeout: 180_000 }, async () => {
    await tried("bad", ["sfu.node_ip=203.0.113.9,2001:db8::9"], (ways, text, ports) => {
        assert.match(text, /Calls from this browser work, and go by: TURN at the HTTPS port/, text);
        assert.deepEqual(Object.values(ways).map((w) => w.ok), ["false", "false", "false", "true"], text);
        assert.match(ways.udp.text, new RegExp(`Nothing comes back from UDP port ${ports.udp} at 203\\.0\\.113\\.9`));
        assert.match(ways.tcp.text, new RegExp(`Nothing comes back from TCP port ${ports.tcp} at 203\\.0\\.113\\.9`));
        assert.match(ways.turn.text, new RegExp(`TURN does not answer at UDP port ${ports.turn} of 203\\.0\\.113\\.9`));
    });
});
