// Where members of a call say their media is. A person may be on another address of the appliance than others are
// (localhost, a LAN address, the public name), but all of them are the same relay. So what is written into the room
// names the public address, which other Matrix clients can use too, and what the widget is shown names the address of
// this page, the only one that its policy lets it reach.
import type { MatrixClient } from "matrix-js-sdk";
import type { State } from "../setup/api";

type Content = Record<string, unknown>;

// Lists and objects of a membership that name relays, in the forms that MSC3401 and MSC4143 have had.
const places = ["foci_preferred", "rtc_transports", "foci_active", "focus_active"];
export const memberTypes = new Set(["org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member", "m.rtc.member"]);

/** withService gives a membership's content with every relay's address put through a function. */
export function withService(content: Content, change: (url: string) => string): Content {
    const one = (place: unknown): unknown => {
        const url = (place as Content | null)?.["livekit_service_url"];
        return typeof url === "string" ? { ...(place as Content), livekit_service_url: change(url) } : place;
    };
    const out: Content = { ...content };
    for (const p of places) {
        const v = out[p];
        if (Array.isArray(v)) out[p] = v.map(one);
        else if (v && typeof v === "object") out[p] = one(v);
    }
    return out;
}

/** Addresses knows the relay's address here and the one that everybody can use. */
export interface Addresses {
    here: string;
    shared: string;
    /** Server name whose members are on this relay. */
    serverName: string;
}

/** addresses asks the appliance. Undefined: it has no relay, and nothing is changed. */
export async function addresses(client: MatrixClient): Promise<Addresses | undefined> {
    try {
        const [transports, state] = await Promise.all([client._unstable_getRTCTransports(), fetch("/api/setup", { cache: "no-store" }).then((r) => r.json() as Promise<State>)]);
        const here = transports.map((t) => (t as { livekit_service_url?: unknown }).livekit_service_url).find((u) => typeof u === "string");
        if (typeof here !== "string") return undefined;
        const shared = state.public_url ? new URL(new URL(here, location.href).pathname, state.public_url).href : here;
        return { here, shared, serverName: client.getDomain() ?? "" };
    } catch (e) {
        console.warn("the relay's addresses are not known", e);
        return undefined;
    }
}

/** outgoing prepares a membership for the room. */
export function outgoing(a: Addresses | undefined, type: string, content: unknown): unknown {
    if (!a || !memberTypes.has(type) || content === null || typeof content !== "object") return content;
    return withService(content as Content, (url) => (url === a.here ? a.shared : url));
}

/** incoming prepares an event for the widget. Members of other servers may be on relays of their own. */
export function incoming<E extends { type: string; sender: string; content: unknown }>(a: Addresses | undefined, event: E): E {
    if (!a || !memberTypes.has(event.type) || !event.sender.endsWith(`:${a.serverName}`) || event.content === null || typeof event.content !== "object") return event;
    return { ...event, content: withService(event.content as Content, () => a.here) };
}
