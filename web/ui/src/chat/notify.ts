// Desktop notifications, the sound of a new message, and the number of unread messages in the window's title.
import { useEffect, useState } from "react";
import { ClientEvent, KnownMembership, type MatrixEvent, NotificationCountType, type Room, RoomEvent, SyncState } from "matrix-js-sdk";
import { PushProcessor } from "matrix-js-sdk/lib/pushprocessor";
import { playTones } from "../call/tones";
import { t } from "../i18n";
import { notify as display, keepPush, onPushOpened, settle } from "../push";
import { nameOf, useClient, useOn, useRefresh } from "./context";
import { kindOf, summary } from "./describe";
import { directs, otherOf, roomName } from "./rooms";

export type Permission = "default" | "granted" | "denied" | "unsupported";
const key = "hf.notify";

export const permission = (): Permission => ("Notification" in window ? Notification.permission : "unsupported");
/** wanted says whether the person has turned notifications on on this device. */
export const wanted = (): boolean => permission() === "granted" && localStorage.getItem(key) !== "off";

/** turnOn asks the browser if needed. */
export async function turnOn(on: boolean): Promise<Permission> {
    if (!on) {
        localStorage.setItem(key, "off");
        return permission();
    }
    localStorage.removeItem(key);
    if (permission() === "default") await Notification.requestPermission();
    return permission();
}

const soundKey = "hf.sound";
/** soundOn says whether new messages are heard on this device. */
export const soundOn = (): boolean => localStorage.getItem(soundKey) !== "off";
export function turnSoundOn(on: boolean): void {
    if (on) localStorage.removeItem(soundKey);
    else localStorage.setItem(soundKey, "off");
}

const placeOf = (roomId: string): string => `/chat/${encodeURIComponent(roomId)}`;

let audio: AudioContext | undefined;
let lastSound = 0;
// Many messages at once are one sound. A browser that has not been touched yet stays silent.
function sound(): void {
    if (!soundOn() || Date.now() - lastSound < 2000) return;
    lastSound = Date.now();
    try {
        audio ??= new AudioContext();
        if (audio.state === "running") playTones(audio, [[0, 784], [0.12, 1047]], 0.07);
        else void audio.resume().catch(() => undefined);
    } catch {
        // no sound device
    }
}

/** useNotifications shows a notification for each message that the person's rules ask for. */
export function useNotifications(current: string | undefined): void {
    const client = useClient();
    const [processor] = useState(() => new PushProcessor(client));
    useEffect(onPushOpened, []);
    useEffect(() => void keepPush(client).catch((e: unknown) => console.warn("Web Push could not be renewed", e)), [client]);
    const show = (event: MatrixEvent, room: Room): void => {
        if (event.getSender() === client.getUserId() || !kindOf(event)) return;
        // What is on the screen needs no notification.
        if (room.roomId === current && !document.hidden && document.hasFocus()) return;
        if (room.getMyMembership() !== KnownMembership.Join) return;
        const { notify, tweaks } = processor.actionsForEvent(event);
        if (!notify) return;
        if (tweaks.sound && kindOf(event) === "message") sound();
        if (!wanted()) return;
        const name = roomName(room, otherOf(room, directs(client)));
        const from = nameOf(event.sender, event.getSender() ?? "");
        const body = name === from ? summary(event) : t("rooms.from", { name: from, text: summary(event) });
        void display(name, { body, tag: room.roomId, icon: "/icon.svg", silent: soundOn(), data: { room: room.roomId } }, placeOf(room.roomId)).catch((e: unknown) => console.warn("no notification", e));
    };
    useOn(client, [RoomEvent.Timeline], (event: MatrixEvent, room: Room | undefined, toStart: boolean | undefined, _removed: boolean, data: { liveEvent?: boolean }) => {
        if (!room || toStart || !data.liveEvent || client.getSyncState() !== SyncState.Syncing || event.status) return;
        if (event.isBeingDecrypted() || event.shouldAttemptDecryption()) event.once("Event.decrypted" as never, (() => show(event, room)) as never);
        else show(event, room);
    });
    useOn(client, [RoomEvent.MyMembership], (room: Room, membership: string, before: string | undefined) => {
        if (membership !== "invite" || before === "invite" || !wanted() || client.getSyncState() !== SyncState.Syncing || document.hasFocus()) return;
        const body = roomName(room, otherOf(room, directs(client)));
        void display(t("notify.invite"), { body, tag: room.roomId, icon: "/icon.svg", data: { room: room.roomId } }, placeOf(room.roomId)).catch((e: unknown) => console.warn("no notification", e));
    });

    useRefresh(client, [RoomEvent.UnreadNotifications, RoomEvent.Receipt, RoomEvent.MyMembership, ClientEvent.Room]);
    const unread = client.getVisibleRooms().reduce((n, r) => n + (r.getMyMembership() === KnownMembership.Invite ? 1 : r.getUnreadNotificationCount(NotificationCountType.Total)), 0);
    // What was said while the chat was closed goes when it is looked at, or was read elsewhere; what is kept from the
    // last time does not know of it yet.
    useEffect(() => {
        if (current) void settle(current).catch(() => undefined);
    }, [current]);
    useOn(client, [ClientEvent.Sync], (now: SyncState) => {
        if (now === SyncState.Syncing && !unread) void settle().catch(() => undefined);
    });
    useEffect(() => {
        document.title = unread ? t("app.titleUnread", { count: unread }) : t("app.name");
        const badge = navigator as { setAppBadge?: (n: number) => Promise<void>; clearAppBadge?: () => Promise<void> };
        void (unread ? badge.setAppBadge?.(unread) : badge.clearAppBadge?.())?.catch(() => undefined);
    }, [unread]);
}
