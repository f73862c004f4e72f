import { expect, test } from "vitest";
import { decode, encode, fits, only, serversOf } from "./calltest";

test("messages are read as they were written", () => {
    const inner = encode([1, "answer"], [2, "v=0\r\nä"], [3, 300]);
    expect(inner.slice(0, 8)).toEqual(new Uint8Array([0x0a, 6, 0x61, 0x6e, 0x73, 0x77, 0x65, 0x72]));
    const m = decode(encode([2, inner], [2, "x"], [16, 2 ** 40]));
    expect(m.get(2)?.[0]).toEqual(inner);
    expect(m.get(2)).toHaveLength(2);
    expect(m.get(16)).toEqual([2 ** 40]);
    // Fixed fields are skipped over: 9 is field 1 with eight bytes, 21 field 2 with four.
    expect(decode(new Uint8Array([9, 1, 2, 3, 4, 5, 6, 7, 8, 21, 1, 2, 3, 4, 24, 5])).get(3)).toEqual([5]);
    for (const bad of [[0x0a, 5, 1], [0x80], [0x0b], Array(12).fill(0xff)]) expect(() => decode(new Uint8Array(bad as number[]))).toThrow(RangeError);
});

const udp = "1 1 udp 2130706431 192.0.2.1 7882 typ host";
const tcp = "2 1 tcp 1671430143 192.0.2.1 7881 typ host tcptype passive";

test("each way goes by its own candidates and servers", () => {
    for (const way of ["udp", "turn", "https"] as const) expect([fits(way, udp), fits(way, tcp)]).toEqual([true, false]);
    expect([fits("tcp", udp), fits("tcp", tcp), fits("udp", "x")]).toEqual([false, true, false]);
    const sdp = ["v=0", "m=application 9 UDP/DTLS/SCTP webrtc-datachannel", `a=candidate:${udp}`, `a=candidate:${tcp}`, "a=end-of-candidates", ""].join("\r\n");
    expect(only("tcp", sdp)).toBe(sdp.replace(`a=candidate:${udp}\r\n`, ""));
    expect(only("turn", sdp)).toBe(sdp.replace(`a=candidate:${tcp}\r\n`, ""));
    const all = [{ urls: ["turn:192.0.2.1:3478?transport=udp", "turns:chat.example.org:443?transport=tcp", "turn:chat.example.org:443?transport=tcp"], username: "u", credential: "p" }];
    expect(serversOf("udp", all)).toEqual([]);
    expect(serversOf("turn", all)).toEqual([{ urls: ["turn:192.0.2.1:3478?transport=udp"], username: "u", credential: "p" }]);
    expect(serversOf("https", all)[0]?.urls).toHaveLength(2);
});
