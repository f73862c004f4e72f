import { expect, test } from "vitest";
import { incoming, outgoing } from "./transport";

const a = { here: "http://localhost:8008/livekit/jwt", shared: "https://chat.example.org/livekit/jwt", serverName: "example.org" };
const type = "org.matrix.msc3401.call.member";
const at = (url: string) => ({ application: "m.call", foci_preferred: [{ type: "livekit", livekit_alias: "!r", livekit_service_url: url }], focus_active: { type: "livekit", focus_selection: "oldest_membership" } });

test("a membership is written with the address that everybody can use", () => {
    expect(outgoing(a, type, at(a.here))).toEqual(at(a.shared));
    expect(outgoing(a, type, {})).toEqual({});
    expect(outgoing(a, "m.reaction", at(a.here))).toEqual(at(a.here));
    expect(outgoing(undefined, type, at(a.here))).toEqual(at(a.here));
});

test("members of this server are shown at the address of this page", () => {
    expect(incoming(a, { type, sender: "@bob:example.org", content: at("https://192.0.2.1:8443/livekit/jwt") }).content).toEqual(at(a.here));
    expect(incoming(a, { type, sender: "@bob:example.org", content: at(a.shared) }).content).toEqual(at(a.here));
});

test("members of other servers keep their relay", () => {
    const ev = { type, sender: "@eve:other.org", content: at("https://other.org/livekit/jwt") };
    expect(incoming(a, ev)).toEqual(ev);
    const near = { type, sender: "@eve:not-example.org", content: at("https://x/livekit/jwt") };
    expect(incoming(a, near)).toEqual(near);
});
