// One running call: the address of the widget, its message channel, and the stream of events that it is fed with.
import { ClientEvent, EventTimeline, MatrixEventEvent, RoomEvent, RoomStateEvent, type MatrixClient, type MatrixEvent, type ReceivedToDeviceMessage, type Room } from "matrix-js-sdk";
import { ClientWidgetApi, Widget, type IWidgetApiRequest } from "matrix-widget-api";
import { locale } from "../i18n";
import { CallDriver } from "./driver";
import type { Addresses } from "./transport";

export type Intent = "audio" | "video";

/** What the widget's makers call the ways into a call. */
function intentName(intent: Intent, direct: boolean, running: boolean): string {
    return (running ? "join_existing" : "start_call") + (direct ? "_dm" : "") + (intent === "audio" ? "_voice" : "");
}

export function shownTheme(): "light" | "dark" {
    const chosen = document.documentElement.dataset["theme"];
    if (chosen === "light" || chosen === "dark") return chosen;
    return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

export interface CallOptions {
    client: MatrixClient;
    room: Room;
    intent: Intent;
    /** A chat of two people: rings, and ends when the other leaves. */
    direct: boolean;
    /** Somebody is in the call already. */
    running: boolean;
}

/** callUrl is the address of the iframe. Everything is in the fragment, which never leaves the browser. */
export function callUrl({ client, room, intent, direct, running }: CallOptions, widgetId: string): string {
    const params = new URLSearchParams({
        widgetId,
        parentUrl: location.href.split("#")[0]!,
        userId: client.getSafeUserId(),
        deviceId: client.getDeviceId() ?? "",
        roomId: room.roomId,
        baseUrl: client.baseUrl,
        intent: intentName(intent, direct, running),
        perParticipantE2EE: String(room.hasEncryptionStateEvent()),
        header: "none",
        controlledAudioDevices: "false",
        hideScreensharing: "false",
        allowIceFallback: "false",
        confineToRoom: "true",
        lang: locale,
        theme: shownTheme(),
    });
    // The widget reads the fragment as a query, in which + is a space but %20 is safer across its parsers.
    return `/element-call/index.html#?${params.toString().replaceAll("+", "%20")}`;
}

/** CallChannel joins an iframe to the Matrix client until stop() is called. */
export class CallChannel {
    private readonly api: ClientWidgetApi;
    private readonly cleanups: (() => void)[] = [];

    constructor(
        iframe: HTMLIFrameElement,
        readonly widgetId: string,
        options: CallOptions & { sticky: boolean; relay: Addresses | undefined },
        on: { joined: () => void; left: () => void; closed: () => void; failed: (e: Error) => void },
    ) {
        const { client, room } = options;
        const widget = new Widget({
            id: widgetId,
            creatorUserId: client.getSafeUserId(),
            type: "m.custom",
            url: new URL("/element-call/index.html", location.href).href,
            waitForIframeLoad: false, // it says content_loaded when its scripts are ready
        });
        const driver = new CallDriver(client, room, options.sticky, options.relay);
        const api = (this.api = new ClientWidgetApi(widget, iframe, driver));
        api.setViewedRoomId(room.roomId);
        api.on("error:preparing", (e: unknown) => on.failed(e instanceof Error ? e : new Error(String(e))));

        // Element Call's own actions. Each wants an answer.
        const answer = (name: string, then?: () => void, data: object = {}): void => {
            const handle = (ev: CustomEvent<IWidgetApiRequest>): void => {
                ev.preventDefault();
                api.transport.reply(ev.detail, data as never);
                then?.();
            };
            api.on(`action:${name}`, handle);
            this.cleanups.push(() => api.off(`action:${name}`, handle));
        };
        answer("io.element.join", on.joined);
        answer("im.vector.hangup", on.left);
        answer("io.element.close", on.closed);
        answer("io.element.device_mute");
        answer("io.element.tile_layout");
        answer("io.element.spotlight_layout");
        answer("set_always_on_screen", undefined, { success: true });

        this.feed(client, room, driver);
    }

    // feed passes on what happens in the room from now on; what happened before the widget reads through the driver.
    private feed(client: MatrixClient, room: Room, driver: CallDriver): void {
        const pass = (ev: MatrixEvent): void => void this.api.feedEvent(driver.shown(ev)).catch((e: unknown) => console.warn("the call did not take an event", e));
        const onTimeline = (ev: MatrixEvent, where: Room | undefined, toStart?: boolean, _removed?: boolean, data?: { liveEvent?: boolean }): void => {
            if (where?.roomId !== room.roomId || toStart || data?.liveEvent === false) return;
            if (ev.isBeingDecrypted() || ev.shouldAttemptDecryption()) ev.once(MatrixEventEvent.Decrypted, () => !ev.isDecryptionFailure() && pass(ev));
            else if (!ev.isDecryptionFailure()) pass(ev);
        };
        const onState = (ev: MatrixEvent): void => {
            if (ev.getRoomId() === room.roomId) void this.api.feedStateUpdate(driver.shown(ev)).catch((e: unknown) => console.warn("the call did not take a state event", e));
        };
        const onToDevice = ({ message, encryptionInfo }: ReceivedToDeviceMessage): void =>
            void this.api.feedToDevice(message as never, encryptionInfo !== null).catch((e: unknown) => console.warn("the call did not take a message", e));

        client.on(RoomEvent.Timeline, onTimeline);
        client.on(RoomStateEvent.Events, onState);
        client.on(ClientEvent.ReceivedToDeviceMessage, onToDevice);
        this.cleanups.push(() => {
            client.off(RoomEvent.Timeline, onTimeline);
            client.off(RoomStateEvent.Events, onState);
            client.off(ClientEvent.ReceivedToDeviceMessage, onToDevice);
        });
    }

    /** hangUp asks the widget to leave the call; it answers with `left` and `closed`. */
    async hangUp(): Promise<void> {
        await this.api.transport.send("im.vector.hangup" as never, {});
    }

    theme(name: "light" | "dark"): void {
        void this.api.updateTheme({ name }).catch(() => undefined);
    }

    stop(): void {
        for (const c of this.cleanups.splice(0)) c();
        this.api.stop();
        this.api.removeAllListeners();
    }
}

/** endMembership takes this device out of the room's call, for when the widget can no longer do it itself. */
export async function endMembership(client: MatrixClient, room: Room): Promise<void> {
    const me = client.getSafeUserId();
    const device = client.getDeviceId() ?? "";
    const state = room.getLiveTimeline().getState(EventTimeline.FORWARDS);
    for (const ev of state?.getStateEvents("org.matrix.msc3401.call.member") ?? []) {
        const content = ev.getContent();
        if (ev.getSender() === me && content["device_id"] === device && Object.keys(content).length > 0) await client.sendStateEvent(room.roomId, "org.matrix.msc3401.call.member" as never, {} as never, ev.getStateKey());
    }
}
