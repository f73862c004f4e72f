// The list of chats: what is shown for each room, in which order, and which rooms are one-to-one.
import { useMemo } from "react";
import {
    ClientEvent,
    EventType,
    KnownMembership,
    type MatrixClient,
    type MatrixEvent,
    MatrixEventEvent,
    NotificationCountType,
    type Room,
    RoomEvent,
    RoomMemberEvent,
    RoomStateEvent,
} from "matrix-js-sdk";
import { t } from "../i18n";
import { nameOf, useRefresh } from "./context";
import { isShown, preview } from "./describe";

export interface Summary {
    room: Room;
    id: string;
    name: string;
    /** mxc address of the picture. */
    picture: string | undefined;
    /** The other person of a one-to-one chat. */
    other: string | undefined;
    invite: boolean;
    unread: number;
    mentions: number;
    ts: number;
    text: string;
}

/** directs maps room ID to the other person, from m.direct. */
export function directs(client: MatrixClient): Map<string, string> {
    const content = client.getAccountData(EventType.Direct)?.getContent() ?? {};
    const out = new Map<string, string>();
    for (const [user, rooms] of Object.entries(content as Record<string, unknown>)) {
        if (Array.isArray(rooms)) for (const r of rooms) if (typeof r === "string") out.set(r, user);
    }
    return out;
}

/** markDirect adds or removes a room from the person's list of one-to-one chats. */
export async function markDirect(client: MatrixClient, roomId: string, userId: string | undefined): Promise<void> {
    const old = (client.getAccountData(EventType.Direct)?.getContent() ?? {}) as Record<string, string[]>;
    const next: Record<string, string[]> = {};
    for (const [user, rooms] of Object.entries(old)) {
        const rest = rooms.filter((r) => r !== roomId);
        if (rest.length) next[user] = rest;
    }
    if (userId) next[userId] = [...(next[userId] ?? []), roomId];
    await client.setAccountData(EventType.Direct, next);
}

/** directWith finds a one-to-one chat with a person that both can still use. */
export function directWith(client: MatrixClient, userId: string): Room | undefined {
    for (const [roomId, other] of directs(client)) {
        if (other !== userId) continue;
        const room = client.getRoom(roomId);
        const theirs = room?.getMember(userId)?.membership;
        if (room?.getMyMembership() === KnownMembership.Join && (theirs === KnownMembership.Join || theirs === KnownMembership.Invite)) return room;
    }
    return undefined;
}

export function otherOf(room: Room, known: Map<string, string>): string | undefined {
    const listed = known.get(room.roomId);
    if (listed) return listed;
    if (room.getMyMembership() === KnownMembership.Invite) return room.getDMInviter() ?? undefined;
    return undefined;
}

export function roomName(room: Room, other: string | undefined): string {
    if (other && !room.currentState.getStateEvents(EventType.RoomName, "")?.getContent()["name"]) {
        return nameOf(room.getMember(other), other);
    }
    return room.name || t("room.unnamed");
}

export function roomPicture(room: Room, other: string | undefined): string | undefined {
    const own = room.getMxcAvatarUrl();
    if (own) return own;
    return (other && room.getMember(other)?.getMxcAvatarUrl()) || undefined;
}

function lastShown(room: Room): MatrixEvent | undefined {
    const events = room.getLiveTimeline().getEvents();
    for (let i = events.length - 1; i >= 0; i--) if (isShown(events[i]!)) return events[i];
    return undefined;
}

export function summarise(client: MatrixClient, room: Room, known: Map<string, string>): Summary {
    const other = otherOf(room, known);
    const invite = room.getMyMembership() === KnownMembership.Invite;
    const last = lastShown(room);
    if (last?.isEncrypted() && !last.getClearContent()) void client.decryptEventIfNeeded(last);
    const inviteEvent = invite ? room.getMember(client.getSafeUserId())?.events.member : undefined;
    return {
        room,
        id: room.roomId,
        name: roomName(room, other),
        picture: roomPicture(room, other),
        other,
        invite,
        unread: room.getUnreadNotificationCount(NotificationCountType.Total),
        mentions: room.getUnreadNotificationCount(NotificationCountType.Highlight),
        ts: (last ?? inviteEvent)?.getTs() ?? 0,
        text: invite ? t("rooms.invited", { name: nameOf(room.getMember(inviteEvent?.getSender() ?? ""), inviteEvent?.getSender() ?? "") }) : last ? preview(client, room, last, !!other) : "",
    };
}

/** ordered puts invitations first, then the chat with the newest message. */
export function ordered(list: Summary[]): Summary[] {
    return [...list].sort((a, b) => Number(b.invite) - Number(a.invite) || b.ts - a.ts || a.name.localeCompare(b.name));
}

/** matches is the search in the list of chats: all words, in any order, in the name or the other person's ID. */
export function matches(summary: { name: string; other: string | undefined }, query: string): boolean {
    const hay = `${summary.name} ${summary.other ?? ""}`.toLocaleLowerCase();
    return query.toLocaleLowerCase().split(/\s+/).every((w) => hay.includes(w));
}

const roomEvents = [
    ClientEvent.Room,
    ClientEvent.DeleteRoom,
    ClientEvent.AccountData,
    RoomEvent.Timeline,
    RoomEvent.LocalEchoUpdated,
    RoomEvent.Name,
    RoomEvent.MyMembership,
    RoomEvent.Receipt,
    RoomEvent.UnreadNotifications,
    RoomEvent.Redaction,
    RoomMemberEvent.Name,
    RoomStateEvent.Events,
    MatrixEventEvent.Decrypted,
] as const;

/** useRooms follows all chats of the person, ordered. */
export function useRooms(client: MatrixClient): Summary[] {
    const n = useRefresh(client, roomEvents);
    return useMemo(() => {
        void n;
        const known = directs(client);
        const all = client
            .getVisibleRooms()
            .filter((r) => !r.isSpaceRoom() && [KnownMembership.Join, KnownMembership.Invite].includes(r.getMyMembership() as KnownMembership));
        return ordered(all.map((r) => summarise(client, r, known)));
    }, [client, n]);
}
