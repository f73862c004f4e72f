// A test of the way that calls take, from this browser: for each way by which media can go it joins a room of its own at
// the call relay and has a connection made by that way alone. It speaks as much of LiveKit's protocol as that takes.

export const ways = ["udp", "tcp", "turn", "https"] as const;
export type Way = (typeof ways)[number];

/** What went wrong:
 *  - signalling: no WebSocket to the relay came about
 *  - refused: the relay did not let the test client in
 *  - off: the way is not offered to this browser
 *  - browser: the browser does not know it
 *  - turn: TURN gave no address
 *  - behind: TURN did, and the media port behind it does not answer
 *  - closed: nothing came back from the media port
 *  - silent: the port answers, and no encrypted connection came about */
export type Fault = "signalling" | "refused" | "off" | "browser" | "turn" | "behind" | "closed" | "silent";

export interface Outcome {
    way: Way;
    ok: boolean;
    fault?: Fault;
    /** What the browser said, or the address that answered. */
    detail: string;
    /** Of TURN at the HTTPS port: how the browser came there. */
    tls?: boolean;
    ms: number;
}

const signalTime = 8_000;
const mediaTime = 12_000; // a browser has tried everything by then

// --- as much of protobuf as is needed ------------------------------------------------------------------------------

type Fields = Map<number, (Uint8Array | number)[]>;

/** decode reads the fields of a message. It throws a RangeError where there are none. */
export function decode(b: Uint8Array): Fields {
    const out: Fields = new Map();
    let at = 0;
    const varint = (): number => {
        let n = 0;
        for (let shift = 0; shift < 70; shift += 7) {
            const x = b[at++];
            if (x === undefined) break;
            n += (x & 0x7f) * 2 ** shift;
            if (x < 0x80) return n;
        }
        throw new RangeError("a number has no end");
    };
    const bytes = (n: number): Uint8Array => {
        if (at + n > b.length) throw new RangeError("a field is longer than its message");
        return b.subarray(at, (at += n));
    };
    while (at < b.length) {
        const key = varint();
        const [field, kind] = [Math.floor(key / 8), key % 8];
        let value: Uint8Array | number;
        if (kind === 0) value = varint();
        else if (kind === 1) value = bytes(8);
        else if (kind === 2) value = bytes(varint());
        else if (kind === 5) value = bytes(4);
        else throw new RangeError(`there is no kind of field ${kind}`);
        out.set(field, [...(out.get(field) ?? []), value]);
    }
    return out;
}

const last = (m: Fields, field: number): Uint8Array | number | undefined => m.get(field)?.at(-1);
const message = (m: Fields, field: number): Fields | undefined => {
    const v = last(m, field);
    return v instanceof Uint8Array ? decode(v) : undefined;
};
const text = (v: Uint8Array | number | undefined): string => (v instanceof Uint8Array ? new TextDecoder().decode(v) : "");
const count = (v: Uint8Array | number | undefined): number => (typeof v === "number" ? v : 0);

/** encode writes fields: texts, messages and numbers. */
export function encode(...fields: [field: number, value: string | Uint8Array | number][]): Uint8Array<ArrayBuffer> {
    const out: number[] = [];
    const varint = (n: number): void => {
        for (; n >= 0x80; n = Math.floor(n / 0x80)) out.push((n % 0x80) | 0x80);
        out.push(n);
    };
    for (const [field, value] of fields) {
        varint(field * 8 + (typeof value === "number" ? 0 : 2));
        if (typeof value === "number") {
            varint(value);
            continue;
        }
        const b = typeof value === "string" ? new TextEncoder().encode(value) : value;
        varint(b.length);
        for (const x of b) out.push(x);
    }
    return new Uint8Array(out);
}

// --- which of what the relay offers belongs to a way ------------------------------------------------------------------

/** fits says whether a candidate of the relay's (RFC 8839, 5.1) is of a way. TURN goes to the UDP port. */
export function fits(way: Way, candidate: string): boolean {
    const protocol = candidate.split(" ")[2]?.toLowerCase();
    return protocol === (way === "tcp" ? "tcp" : "udp");
}

/** only leaves the candidates of a way in a description. */
export function only(way: Way, sdp: string): string {
    return sdp
        .split("\r\n")
        .filter((line) => !line.startsWith("a=candidate:") || fits(way, line.slice("a=candidate:".length)))
        .join("\r\n");
}

export interface Server {
    urls: string[];
    username: string;
    credential: string;
}

/** serversOf are the ICE servers by which a way goes. */
export function serversOf(way: Way, all: Server[]): Server[] {
    const wanted = (url: string): boolean => (way === "turn" ? url.startsWith("turn:") && !url.includes("transport=tcp") : way === "https" && (url.startsWith("turns:") || (url.startsWith("turn:") && url.includes("transport=tcp"))));
    return all.map((s) => ({ ...s, urls: s.urls.filter(wanted) })).filter((s) => s.urls.length > 0);
}

// --- a way -----------------------------------------------------------------------------------------------------------

/** tryWay has a connection made by one way. base is the relay's address for signalling. */
export async function tryWay(way: Way, base: string, token: string): Promise<Outcome> {
    const begun = performance.now();
    const done = (o: Omit<Outcome, "way" | "ms">): Outcome => ({ way, ms: Math.round(performance.now() - begun), ...o });
    const ws = new WebSocket(`${base}/rtc?${new URLSearchParams({ access_token: token, protocol: "15", auto_subscribe: "1", sdk: "js", version: "1" })}`);
    ws.binaryType = "arraybuffer";
    let pc: RTCPeerConnection | undefined;
    try {
        const queue: Fields[] = [];
        let wake = (): void => {};
        let closed = false;
        ws.onmessage = (ev) => {
            if (ev.data instanceof ArrayBuffer) queue.push(decode(new Uint8Array(ev.data)));
            wake();
        };
        ws.onclose = ws.onerror = () => {
            closed = true;
            wake();
        };
        const next = async (until: number): Promise<Fields | undefined> => {
            while (queue.length === 0 && !closed && performance.now() < until) {
                await new Promise<void>((resolve) => {
                    wake = resolve;
                    setTimeout(resolve, until - performance.now());
                });
            }
            return queue.shift();
        };

        const first = await next(begun + signalTime);
        const join = first && message(first, 1);
        if (!join) return done({ ok: false, ...(await refusal(base, token, first !== undefined)) });
        const servers = (join.get(5) ?? []).flatMap((v) => {
            if (!(v instanceof Uint8Array)) return [];
            const s = decode(v);
            return [{ urls: (s.get(1) ?? []).map(text), username: text(last(s, 2)), credential: text(last(s, 3)) }];
        });
        const relayed = way === "turn" || way === "https";
        const mine = serversOf(way, servers);
        if (relayed && mine.length === 0) return done({ ok: false, fault: "off", detail: "" });

        const p = (pc = new RTCPeerConnection({ iceServers: mine, iceTransportPolicy: relayed ? "relay" : "all" }));
        const own = new Set<string>(); // protocols of the browser's candidates
        const troubles = new Set<string>();
        p.onicecandidate = (ev) => {
            if (ev.candidate?.candidate) own.add(ev.candidate.protocol ?? "");
        };
        p.onicecandidateerror = (ev) => {
            if (relayed) troubles.add(`${ev.url} ${ev.errorCode} ${ev.errorText}`.trim());
        };
        let heard = false;
        const opened = new Promise<void>((resolve) => {
            p.ondatachannel = ({ channel }) => {
                const open = (): void => {
                    heard = true;
                    resolve();
                };
                if (channel.readyState === "open") open();
                else channel.onopen = open;
            };
            p.onconnectionstatechange = () => {
                if (p.connectionState === "failed") resolve();
            };
        });
        let answered = false; // by the media port
        p.oniceconnectionstatechange = () => {
            answered ||= p.iceConnectionState === "connected" || p.iceConnectionState === "completed";
        };
        const until = performance.now() + mediaTime;
        let over = false;
        const talk = async (): Promise<void> => {
            const early: RTCIceCandidateInit[] = [];
            while (!over) {
                const m = await next(until);
                if (!m) return;
                const offer = message(m, 3);
                const trickle = message(m, 4);
                if (offer) {
                    await p.setRemoteDescription({ type: "offer", sdp: only(way, text(last(offer, 2))) });
                    for (const c of early.splice(0)) await p.addIceCandidate(c);
                    const answer = await p.createAnswer();
                    await p.setLocalDescription(answer);
                    ws.send(encode([2, encode([1, "answer"], [2, answer.sdp ?? ""], [3, count(last(offer, 3))])]));
                } else if (trickle && count(last(trickle, 2)) === 1) {
                    const c = JSON.parse(text(last(trickle, 1))) as RTCIceCandidateInit;
                    if (!c.candidate || !fits(way, c.candidate.replace(/^candidate:/, ""))) continue;
                    if (p.remoteDescription) await p.addIceCandidate(c);
                    else early.push(c);
                }
            }
        };
        let trouble = "";
        const talking = talk().catch((e: unknown) => void (trouble = String(e)));
        await Promise.race([opened, new Promise((resolve) => setTimeout(resolve, mediaTime))]);
        over = true;
        wake();
        await talking;
        const pair = await selected(p);
        if (heard) return done({ ok: true, detail: pair.address, ...(way === "https" ? { tls: pair.tls } : {}) });
        const said = [...troubles].join("; ") || trouble;
        if (answered) return done({ ok: false, fault: "silent", detail: said });
        if (relayed) return done({ ok: false, fault: own.size > 0 ? "behind" : "turn", detail: said });
        return done({ ok: false, fault: own.has(way) || own.size === 0 ? "closed" : "browser", detail: said });
    } finally {
        if (ws.readyState === WebSocket.OPEN) ws.send(encode([8, encode([2, 1])])); // it leaves
        ws.close();
        pc?.close();
    }
}

/** refusal finds out why there is no WebSocket, of which a browser says nothing. */
async function refusal(base: string, token: string, came: boolean): Promise<{ fault: Fault; detail: string }> {
    if (came) return { fault: "refused", detail: "" };
    try {
        const res = await fetch(`${base.replace(/^ws/, "http")}/rtc/validate?access_token=${encodeURIComponent(token)}`, { signal: AbortSignal.timeout(signalTime) });
        if (res.ok) return { fault: "signalling", detail: "" };
        return { fault: "refused", detail: `${res.status} ${(await res.text()).trim().slice(0, 200)}` };
    } catch (e) {
        return { fault: "signalling", detail: String(e) };
    }
}

/** selected is the pair of addresses that a connection goes by. */
async function selected(pc: RTCPeerConnection): Promise<{ address: string; tls: boolean }> {
    const stats = await pc.getStats();
    const all = new Map<string, Record<string, unknown>>();
    stats.forEach((s: { id: string }) => all.set(s.id, s as unknown as Record<string, unknown>));
    for (const s of all.values()) {
        if (s["type"] !== "candidate-pair" || s["state"] !== "succeeded" || s["nominated"] !== true) continue;
        const [here, there] = [all.get(String(s["localCandidateId"])), all.get(String(s["remoteCandidateId"]))];
        const host = String(there?.["address"] ?? there?.["ip"] ?? "");
        return { address: host && `${host.includes(":") ? `[${host}]` : host}:${String(there?.["port"])}`, tls: here?.["relayProtocol"] === "tls" };
    }
    return { address: "", tls: false };
}
