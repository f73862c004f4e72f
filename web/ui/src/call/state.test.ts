import { MatrixEvent, type MatrixClient, type Room } from "matrix-js-sdk";
import { beforeEach, expect, test } from "vitest";
import { type Ringing, ringsOf } from "./state";

const me = "@grace:example.org";
const room = { roomId: "!r" } as Room;
let inCall: string[];
let ringing: Ringing | undefined;
let rings: ReturnType<typeof ringsOf>;

beforeEach(() => {
    inCall = ["@ada:example.org"];
    ringing = undefined;
    const session = { get memberships() { return inCall.map((userId) => ({ userId })); } };
    const client = { getSafeUserId: () => me, matrixRTC: { getRoomSession: () => session } } as unknown as MatrixClient;
    rings = ringsOf(client, (change) => (ringing = change(ringing)));
});

const event = (event_id: string, sender: string, type: string, content: object): MatrixEvent => new MatrixEvent({ event_id, room_id: "!r", sender, type, content, origin_server_ts: Date.now() });
const call = (id: string): MatrixEvent => event(id, "@ada:example.org", "org.matrix.msc4075.rtc.notification", { notification_type: "ring", lifetime: 30_000, sender_ts: Date.now(), "m.mentions": { user_ids: [me] } });
const declined = (id: string, by = me): MatrixEvent => event(`decline of ${id}`, by, "org.matrix.msc4310.rtc.decline", { "m.relates_to": { rel_type: "m.reference", event_id: id } });

test("a call rings until another device of the person has declined it", () => {
    rings.look(call("$1"), room);
    expect(ringing).toMatchObject({ eventId: "$1", loud: true });
    rings.look(declined("$1", "@eve:example.org"), room);
    expect(ringing?.eventId).toBe("$1");
    rings.look(declined("$1"), room);
    expect(ringing).toBeUndefined();
});

test("what is readable only after its decline does not ring, and the next call does", () => {
    rings.look(declined("$1"), room);
    rings.look(call("$1"), room);
    expect(ringing).toBeUndefined();
    rings.look(call("$2"), room);
    expect(ringing?.eventId).toBe("$2");
    // The decline of an older call says nothing of this one.
    rings.look(declined("$1"), room);
    expect(ringing?.eventId).toBe("$2");
});

test("what was answered does not ring when the person has left the call again", () => {
    inCall.push(me);
    rings.look(call("$1"), room);
    expect(ringing).toBeUndefined();
    inCall.pop();
    rings.look(call("$1"), room);
    expect(ringing).toBeUndefined();
    rings.look(call("$2"), room);
    rings.silence("$2");
    rings.look(call("$2"), room);
    expect(ringing).toBeUndefined();
});

test("no more than the newest hundred are remembered", () => {
    for (let i = 0; i < 101; i++) rings.look(declined(`$${i}`), room);
    rings.look(call("$1"), room);
    expect(ringing).toBeUndefined();
    rings.look(call("$0"), room);
    expect(ringing?.eventId).toBe("$0");
});
