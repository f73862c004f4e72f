// Who is in the call of a chat, and who rings; light enough for the chat's first chunk.
import { MatrixEventEvent, RoomEvent, type MatrixClient, type MatrixEvent, type Room } from "matrix-js-sdk";
import { type CallMembership, MatrixRTCSessionEvent } from "matrix-js-sdk/lib/matrixrtc";
import { useEffect, useMemo, useState } from "react";

const notification = "org.matrix.msc4075.rtc.notification";
const decline = "org.matrix.msc4310.rtc.decline";
// A notification lives two minutes at most (MSC4075), whatever its sender says.
const longestRing = 120_000;
// How many notifications that were declined or answered are remembered: those of the last minutes would do.
const mostSilenced = 100;

const usersOf = (memberships: CallMembership[]): string[] => [...new Set(memberships.map((m) => m.userId))].sort();
const same = (a: string[], b: string[]): boolean => a.length === b.length && a.every((x, i) => x === b[i]);

/** useRoomCall follows the members (user IDs) that are in the room's call now; empty when there is none. */
export function useRoomCall(client: MatrixClient, room: Room): string[] {
    const [users, setUsers] = useState<string[]>([]);
    useEffect(() => {
        const session = client.matrixRTC.getRoomSession(room);
        const update = (): void => {
            const now = usersOf(session.memberships);
            setUsers((was) => (same(was, now) ? was : now));
        };
        update();
        session.on(MatrixRTCSessionEvent.MembershipsChanged, update);
        return () => void session.off(MatrixRTCSessionEvent.MembershipsChanged, update);
    }, [client, room]);
    return users;
}

/** A call that somebody started and that asks this person to come. */
export interface Ringing {
    room: Room;
    /** The event that rings: what a decline refers to. */
    eventId: string;
    /** User ID of the caller. */
    from: string;
    intent: "audio" | "video";
    /** Rings loudly; otherwise it is only a notice. */
    loud: boolean;
    /** When it stops by itself, in milliseconds since the epoch. */
    until: number;
}

/** ringingOf reads a notification event. Undefined: it does not ask this person, or no longer. */
export function ringingOf(client: MatrixClient, room: Room, ev: MatrixEvent, now = Date.now()): Ringing | undefined {
    const me = client.getSafeUserId();
    const from = ev.getSender();
    const eventId = ev.getId();
    if (ev.getType() !== notification || !from || !eventId || from === me || ev.isRedacted()) return undefined;
    const content = ev.getContent();
    const mentions = content["m.mentions"] as { user_ids?: unknown; room?: unknown } | undefined;
    const named = Array.isArray(mentions?.user_ids) && mentions.user_ids.includes(me);
    if (!named && mentions?.room !== true) return undefined;
    const claimed = Number(content["sender_ts"]);
    // A clock that is far ahead of the server's is not believed.
    const start = Number.isFinite(claimed) && claimed > 0 && claimed - ev.getTs() < 20_000 ? claimed : ev.getTs();
    const lifetime = Number(content["lifetime"]);
    const until = start + Math.min(Number.isFinite(lifetime) && lifetime > 0 ? lifetime : 30_000, longestRing);
    if (now >= until) return undefined;
    return { room, eventId, from, until, loud: content["notification_type"] === "ring", intent: content["m.call.intent"] === "audio" ? "audio" : "video" };
}

interface Rings {
    /** Takes an event that can be read now. */
    look: (ev: MatrixEvent, room: Room) => void;
    /** The notification with this ID does not ring, or no longer. */
    silence: (eventId: string) => void;
}

/**
 * ringsOf sets what rings. Events become readable in no certain order, so that a notification may be decrypted only
 * after the decline by another device of this person: what was declined or answered is remembered, and does not ring.
 */
export function ringsOf(client: MatrixClient, set: (change: (was: Ringing | undefined) => Ringing | undefined) => void): Rings {
    const me = client.getSafeUserId();
    const silenced = new Set<string>();
    const silence = (eventId: string): void => {
        silenced.add(eventId);
        // A set keeps the order in which its elements came.
        for (const oldest of silenced) {
            if (silenced.size <= mostSilenced) break;
            silenced.delete(oldest);
        }
        set((r) => (r?.eventId === eventId ? undefined : r));
    };
    const look = (ev: MatrixEvent, room: Room): void => {
        if (ev.getSender() === me && ev.getType() === decline) {
            const about = ev.getRelation()?.event_id;
            if (about) silence(about);
            return;
        }
        const r = ringingOf(client, room, ev);
        if (!r || silenced.has(r.eventId)) return;
        if (usersOf(client.matrixRTC.getRoomSession(room).memberships).includes(me)) silence(r.eventId);
        else set(() => r);
    };
    return { look, silence };
}

/** useRinging follows the newest call that asks this person to come; answering, declining and its end clear it. */
export function useRinging(client: MatrixClient): { ringing: Ringing | undefined; dismiss: () => void; refuse: () => Promise<void> } {
    const [ringing, setRinging] = useState<Ringing>();
    const { look, silence } = useMemo(() => ringsOf(client, setRinging), [client]);
    useEffect(() => {
        const onTimeline = (ev: MatrixEvent, room: Room | undefined, toStart?: boolean, _removed?: boolean, data?: { liveEvent?: boolean }): void => {
            if (!room || toStart || data?.liveEvent === false) return;
            if (!ev.isBeingDecrypted() && !ev.shouldAttemptDecryption()) return look(ev, room);
            // Where the key is late the first attempts fail.
            const decrypted = (): void => {
                if (ev.isDecryptionFailure()) return;
                ev.off(MatrixEventEvent.Decrypted, decrypted);
                look(ev, room);
            };
            ev.on(MatrixEventEvent.Decrypted, decrypted);
        };
        client.on(RoomEvent.Timeline, onTimeline);
        return () => void client.off(RoomEvent.Timeline, onTimeline);
    }, [client, look]);

    useEffect(() => {
        if (!ringing) return;
        const { room, from } = ringing;
        const me = client.getSafeUserId();
        const stop = (): void => setRinging((r) => (r === ringing ? undefined : r));
        const timer = setTimeout(stop, Math.max(0, ringing.until - Date.now()));
        const session = client.matrixRTC.getRoomSession(room);
        // The caller may appear in the call a moment after the notification, so only their going away ends it.
        const changed = (before: CallMembership[], after: CallMembership[]): void => {
            const users = usersOf(after);
            if (users.includes(me)) silence(ringing.eventId);
            else if (usersOf(before).includes(from) && !users.includes(from)) stop();
        };
        session.on(MatrixRTCSessionEvent.MembershipsChanged, changed);
        return () => {
            clearTimeout(timer);
            session.off(MatrixRTCSessionEvent.MembershipsChanged, changed);
        };
    }, [client, ringing, silence]);

    return {
        ringing,
        dismiss: () => ringing && silence(ringing.eventId),
        refuse: async () => {
            const r = ringing;
            if (!r) return;
            silence(r.eventId);
            await client.sendEvent(r.room.roomId, decline as never, { "m.relates_to": { rel_type: "m.reference", event_id: r.eventId } } as never);
        },
    };
}

/** isDirect says whether a chat is between two people. */
export function isDirect(client: MatrixClient, room: Room): boolean {
    const direct = client.getAccountData("m.direct" as never)?.getContent<Record<string, unknown>>() ?? {};
    const listed = Object.values(direct).some((rooms) => Array.isArray(rooms) && rooms.includes(room.roomId));
    return (listed || room.getDMInviter() !== undefined) && room.getInvitedAndJoinedMemberCount() <= 2;
}
