// The whole end-to-end run on a network without a way out. The kernel counts each packet or connection for which it
// found no route: STUN, telemetry, update checks, fonts from elsewhere. The count must stay at zero, and what the run
// did send must not have left by the only interface. A name server of the test's own writes down who is asked for.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { skipReason, until } from "./lib.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const ns = `hf-egress-${process.pid}`;

function sh(...args) {
    const r = spawnSync(args[0], args.slice(1), { encoding: "utf8" });
    if (r.status !== 0) throw new Error(`${args.join(" ")}: ${r.stderr || r.error}`);
    return r.stdout;
}
const inside = (...args) => sh("ip", "netns", "exec", ns, ...args);

// counts reads how many packets had no route, how many left by the interface, and how many of those can have been
// multicast: announcements in the local network (a browser joins the group of mDNS), which no router passes on.
function counts() {
    const value = (file, group, name) => {
        const [names, values] = inside("cat", file)
            .split("\n")
            .filter((l) => l.startsWith(`${group}:`))
            .map((l) => l.split(/\s+/));
        const v = Number(values[names.indexOf(name)]);
        assert.ok(Number.isInteger(v), `${file} has no ${name}`);
        return v;
    };
    return {
        noRoute4: value("/proc/net/snmp", "Ip", "OutNoRoutes"),
        noRoute6: Number(/^Ip6OutNoRoutes\s+(\d+)/m.exec(inside("cat", "/proc/net/snmp6"))?.[1]),
        left: Number(inside("cat", "/sys/class/net/lan0/statistics/tx_packets")),
        multicast: value("/proc/net/netstat", "IpExt", "OutMcastPkts"),
    };
}

test("nothing is tried beyond the network, and everything works", { skip: skipReason(), timeout: 20 * 60_000 }, async (t) => {
    sh("ip", "netns", "add", ns);
    t.after(() => {
        spawnSync("ip", ["netns", "del", ns]);
        rmSync(`/etc/netns/${ns}`, { recursive: true, force: true });
    });
    // An interface with an address, as in an office, but no gateway. Its peer is a cable that ends in the air.
    inside("ip", "link", "set", "lo", "up");
    inside("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "air0");
    inside("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/lan0/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/air0/disable_ipv6");
    inside("ip", "addr", "add", "10.99.0.1/24", "dev", "lan0");
    inside("ip", "link", "set", "lan0", "up");
    inside("ip", "link", "set", "air0", "up");
    // Chromium looks up the routes to these two addresses, to learn whether there is IPv6 and which interface is the
    // first; it sends nothing there. (Nothing could be sent unseen either: they lead nowhere.)
    inside("ip", "-6", "route", "add", "blackhole", "2001:4860:4860::8888");
    inside("ip", "route", "add", "blackhole", "8.8.8.8");
    assert.equal(inside("ip", "route", "show", "default"), "", "the namespace must have no default route");
    // A DNS question is an attempt to leave, and its name says whose.
    mkdirSync(`/etc/netns/${ns}`, { recursive: true });
    writeFileSync(`/etc/netns/${ns}/resolv.conf`, "nameserver 127.0.0.53\n");
    const server = spawn("ip", ["netns", "exec", ns, process.execPath, join(here, "names.mjs"), "127.0.0.53"], { stdio: ["ignore", "pipe", "inherit"] });
    t.after(() => server.kill());
    const asked = [];
    const lines = createInterface({ input: server.stdout });
    lines.on("line", (name) => asked.push(name));
    await new Promise((ok) => lines.once("line", ok));
    asked.length = 0;

    await t.test("the counters see what tries to leave", async () => {
        const before = counts();
        spawnSync("ip", ["netns", "exec", ns, "bash", "-c", "echo x > /dev/udp/192.0.2.1/9"], { stdio: "ignore" });
        const udp = counts();
        assert.ok(udp.noRoute4 > before.noRoute4, "an IPv4 packet to an outside address was not counted");
        spawnSync("ip", ["netns", "exec", ns, "bash", "-c", "echo x > /dev/tcp/2001:db8::1/443"], { stdio: "ignore" });
        const tcp = counts();
        assert.ok(counts().noRoute6 > udp.noRoute6, "an IPv6 connection to an outside address was not counted");
        spawnSync("ip", ["netns", "exec", ns, process.execPath, "-e", "require('dns').lookup('example.org', () => {})"], { stdio: "ignore" });
        await until("a DNS question is seen", () => asked.includes("example.org"));
    });

    const before = counts();
    const { NODE_TEST_CONTEXT: _, ...env } = process.env;
    const child = spawn("ip", ["netns", "exec", ns, process.execPath, "--test", "--test-reporter=spec", join(here, "e2e.test.mjs")], { env, stdio: "inherit" });
    const code = await new Promise((ok) => child.once("exit", ok));
    const after = counts();

    await t.test("the end-to-end run passed", () => assert.equal(code, 0));
    await t.test("no packet was tried to an outside address", () => {
        assert.deepEqual(asked.filter((name) => name !== "example.org"), [], "names were asked for");
        assert.equal(after.noRoute4 - before.noRoute4, 0, "IPv4 packets without a route");
        assert.equal(after.noRoute6 - before.noRoute6, 0, "IPv6 packets without a route");
        assert.ok(after.left - before.left <= after.multicast - before.multicast, "something other than local multicast left by the interface");
    });
    t.diagnostic(`packets tried to the outside: ${after.noRoute4 - before.noRoute4} (IPv4), ${after.noRoute6 - before.noRoute6} (IPv6); packets that left by the interface: ${after.left - before.left}`);
});
