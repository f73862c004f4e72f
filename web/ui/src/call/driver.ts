// What the call widget may do with the person's Matrix account. Element Call runs in an iframe without a token; it
// asks for each thing over window messages, matrix-widget-api checks the capability, and this driver does it.
import { EventType, MatrixError, type MatrixClient, type MatrixEvent, type Room } from "matrix-js-sdk";
import {
    type Capability,
    EventDirection,
    type ISendDelayedEventDetails,
    type ISendEventDetails,
    type IOpenIDUpdate,
    type IRoomEvent,
    type IReadEventRelationsResult,
    type IRtcTransportsResult,
    type IWidgetApiErrorResponseDataDetails,
    MatrixCapabilities,
    OpenIDRequestState,
    type SimpleObservable,
    WidgetDriver,
    WidgetEventCapability,
    EventKind,
} from "matrix-widget-api";
import { type Addresses, incoming, outgoing } from "./transport";

const callMember = "org.matrix.msc3401.call.member";
const rtcMember = "org.matrix.msc4143.rtc.member";

// What Element Call may send into the room's timeline, and read from it.
const sent = new Set(["org.matrix.msc4075.call.notify", "org.matrix.msc4075.rtc.notification", "org.matrix.msc4310.rtc.decline", "io.element.call.encryption_keys", "io.element.call.reaction", "org.matrix.rageshake_request", "m.reaction", "m.room.redaction", rtcMember]);
const received = new Set(["org.matrix.msc4310.rtc.decline", "io.element.call.encryption_keys", "io.element.call.reaction", "org.matrix.rageshake_request", "m.reaction", "m.room.redaction", rtcMember]);
const states = new Set<string>([EventType.RoomCreate, EventType.RoomName, EventType.RoomMember, EventType.RoomEncryption, EventType.RoomAvatar, callMember, rtcMember]);
const toDevice = new Set(["m.call.invite", "m.call.candidates", "m.call.answer", "m.call.hangup", "m.call.reject", "m.call.select_answer", "m.call.negotiate", "m.call.sdp_stream_metadata_changed", "org.matrix.call.sdp_stream_metadata_changed", "m.call.replaces", "io.element.call.encryption_keys"]);

type Loose = Record<string, unknown>;

export class CallDriver extends WidgetDriver {
    constructor(
        private readonly client: MatrixClient,
        private readonly room: Room,
        private readonly sticky: boolean,
        private readonly relay: Addresses | undefined,
    ) {
        super();
    }

    // The widget is part of the product and served by the same appliance, so nobody is asked; but it gets only what a
    // call needs, in this room only, and membership state only under the keys of this very device.
    override async validateCapabilities(requested: Set<Capability>): Promise<Set<Capability>> {
        const user = this.client.getSafeUserId();
        const device = this.client.getDeviceId() ?? "";
        const ownKeys = new Set([user, `_${user}_${device}`, `${user}_${device}`, `_${user}_${device}_m.call`, `${user}_${device}_m.call`]);
        const plain = new Set<Capability>([
            MatrixCapabilities.AlwaysOnScreen,
            MatrixCapabilities.MSC3846TurnServers,
            MatrixCapabilities.MSC4039DownloadFile,
            MatrixCapabilities.MSC4157SendDelayedEvent,
            MatrixCapabilities.MSC4157UpdateDelayedEvent,
            MatrixCapabilities.MSC4515RtcTransports,
            MatrixCapabilities.MSC4533RtcLivekitGetToken,
            MatrixCapabilities.MSC4533RtcLivekitDelegateDelayedLeave,
            `org.matrix.msc2762.timeline:${this.room.roomId}`,
            ...(this.sticky ? [MatrixCapabilities.MSC4407SendStickyEvent, MatrixCapabilities.MSC4407ReceiveStickyEvent] : []),
        ]);
        const allowed = new Set<Capability>([...requested].filter((c) => plain.has(c)));
        for (const cap of WidgetEventCapability.findEventCapabilities(requested)) {
            const send = cap.direction === EventDirection.Send;
            const ok =
                cap.kind === EventKind.State
                    ? send
                        ? cap.eventType === callMember && cap.keyStr !== null && ownKeys.has(cap.keyStr)
                        : states.has(cap.eventType)
                    : cap.kind === EventKind.ToDevice
                      ? toDevice.has(cap.eventType)
                      : cap.kind === EventKind.Event && (send ? sent : received).has(cap.eventType);
            if (ok) allowed.add(cap.raw);
        }
        return allowed;
    }

    // Everything goes to the call's room, whatever the widget names.
    private here(roomId?: string | null): string {
        if (roomId && roomId !== this.room.roomId) throw new Error("the call widget may only use its own room");
        return this.room.roomId;
    }

    override async sendEvent(type: string, content: unknown, stateKey: string | null = null, roomId: string | null = null): Promise<ISendEventDetails> {
        const room = this.here(roomId);
        const body = outgoing(this.relay, type, content) as Loose;
        if (stateKey !== null) {
            const { event_id } = await this.client.sendStateEvent(room, type as never, body as never, stateKey);
            return { roomId: room, eventId: event_id };
        }
        if (type === EventType.RoomRedaction) {
            const { event_id } = await this.client.redactEvent(room, String(body["redacts"]));
            return { roomId: room, eventId: event_id };
        }
        const { event_id } = await this.client.sendEvent(room, type as never, body as never);
        return { roomId: room, eventId: event_id };
    }

    override async sendStickyEvent(duration: number, type: string, content: unknown, roomId: string | null = null): Promise<ISendEventDetails> {
        const room = this.here(roomId);
        const { event_id } = await this.client._unstable_sendStickyEvent(room, duration, null, type as never, outgoing(this.relay, type, content) as never);
        return { roomId: room, eventId: event_id };
    }

    override async sendDelayedEvent(delay: number, type: string, content: unknown, stateKey: string | null = null, roomId: string | null = null): Promise<ISendDelayedEventDetails> {
        const room = this.here(roomId);
        const { delay_id } =
            stateKey === null
                ? await this.client._unstable_sendDelayedEvent(room, { delay }, null, type as never, outgoing(this.relay, type, content) as never)
                : await this.client._unstable_sendDelayedStateEvent(room, { delay }, type as never, outgoing(this.relay, type, content) as never, stateKey);
        return { roomId: room, delayId: delay_id };
    }

    override async sendDelayedStickyEvent(delay: number, duration: number, type: string, content: unknown, roomId: string | null = null): Promise<ISendDelayedEventDetails> {
        const room = this.here(roomId);
        const { delay_id } = await this.client._unstable_sendStickyDelayedEvent(room, duration, { delay }, null, type as never, outgoing(this.relay, type, content) as never);
        return { roomId: room, delayId: delay_id };
    }

    override async cancelScheduledDelayedEvent(id: string): Promise<void> {
        await this.client._unstable_cancelScheduledDelayedEvent(id);
    }

    override async restartScheduledDelayedEvent(id: string): Promise<void> {
        await this.client._unstable_restartScheduledDelayedEvent(id);
    }

    override async sendScheduledDelayedEvent(id: string): Promise<void> {
        await this.client._unstable_sendScheduledDelayedEvent(id);
    }

    override async sendToDevice(eventType: string, encrypted: boolean, contentMap: Record<string, Record<string, object>>): Promise<void> {
        const messages = Object.entries(contentMap).flatMap(([userId, devices]) => Object.entries(devices).map(([deviceId, payload]) => ({ userId, deviceId, payload })));
        if (!encrypted) {
            await this.client.queueToDevice({ eventType, batch: messages });
            return;
        }
        const crypto = this.client.getCrypto();
        if (!crypto) throw new Error("encryption is not ready");
        // Devices that get the same content share one encryption step.
        const groups = new Map<string, typeof messages>();
        for (const m of messages) {
            const key = JSON.stringify(m.payload);
            groups.set(key, [...(groups.get(key) ?? []), m]);
        }
        for (const group of groups.values()) {
            const batch = await crypto.encryptToDeviceMessages(
                eventType,
                group.map(({ userId, deviceId }) => ({ userId, deviceId })),
                group[0]!.payload,
            );
            await this.client.queueToDevice(batch);
        }
    }

    override async readRoomTimeline(roomId: string, type: string, msgtype: string | undefined, stateKey: string | undefined, limit: number, since: string | undefined): Promise<IRoomEvent[]> {
        this.here(roomId);
        const out: IRoomEvent[] = [];
        for (const ev of [...this.room.getLiveTimeline().getEvents()].reverse()) {
            if ((limit > 0 && out.length >= limit) || (since !== undefined && ev.getId() === since)) break;
            if (ev.getType() !== type || ev.isState() !== (stateKey !== undefined)) continue;
            if (stateKey !== undefined && ev.getStateKey() !== stateKey) continue;
            if (msgtype !== undefined && ev.getContent()["msgtype"] !== msgtype) continue;
            out.push(this.shown(ev));
        }
        return out;
    }

    override async readRoomState(roomId: string, type: string, stateKey: string | undefined): Promise<IRoomEvent[]> {
        this.here(roomId);
        const state = this.room.currentState;
        if (stateKey === undefined) return state.getStateEvents(type).map((ev) => this.shown(ev));
        const ev = state.getStateEvents(type, stateKey);
        return ev ? [this.shown(ev)] : [];
    }

    override async readStickyEvents(roomId: string): Promise<IRoomEvent[]> {
        this.here(roomId);
        return [...this.room._unstable_getStickyEvents()].map((ev) => this.shown(ev));
    }

    override async readEventRelations(eventId: string, roomId?: string, relationType?: string, eventType?: string, from?: string, to?: string, limit?: number, dir?: "f" | "b"): Promise<IReadEventRelationsResult> {
        const room = this.here(roomId);
        const { events, nextBatch, prevBatch } = await this.client.relations(room, eventId, relationType ?? null, eventType ?? null, {
            ...(from === undefined ? {} : { from }),
            ...(to === undefined ? {} : { to }),
            ...(limit === undefined ? {} : { limit }),
            ...(dir === undefined ? {} : { dir: dir as never }),
        });
        return { chunk: events.map((ev) => this.shown(ev)), ...(nextBatch ? { nextBatch } : {}), ...(prevBatch ? { prevBatch } : {}) };
    }

    override askOpenID(observer: SimpleObservable<IOpenIDUpdate>): void {
        this.client.getOpenIdToken().then(
            (token) => observer.update({ state: OpenIDRequestState.Allowed, token }),
            () => observer.update({ state: OpenIDRequestState.Blocked }),
        );
    }

    override async *getTurnServers(): AsyncGenerator<{ uris: string[]; username: string; password: string }> {
        const { uris, username, password } = await this.client.turnServer();
        yield { uris, username, password };
    }

    override async getRtcTransports(): Promise<IRtcTransportsResult> {
        return { rtc_transports: (await this.client._unstable_getRTCTransports()) as never };
    }

    override async getRtcLivekitToken(data: unknown): Promise<never> {
        return (await this.client._unstable_getLivekitToken(data as never)) as never;
    }

    override async delegateRtcLivekitDelayedLeave(data: unknown): Promise<never> {
        return (await this.client._unstable_delegateDelayedLeave(data as never)) as never;
    }

    override async downloadFile(uri: string): Promise<{ file: XMLHttpRequestBodyInit }> {
        const url = this.client.mxcUrlToHttp(uri, undefined, undefined, undefined, false, true, true);
        if (!url) throw new Error("no such picture");
        const res = await fetch(url, { headers: { Authorization: `Bearer ${this.client.getAccessToken()}` } });
        if (!res.ok) throw new Error(`the picture could not be loaded (${res.status})`);
        return { file: await res.blob() };
    }

    override getKnownRooms(): string[] {
        return [this.room.roomId];
    }

    override processError(error: unknown): IWidgetApiErrorResponseDataDetails | undefined {
        return error instanceof MatrixError ? { matrix_api_error: error.asWidgetApiErrorData() } : undefined;
    }

    /** shown is an event as the widget sees it: decrypted, in the form of the client-server API, with our relay here. */
    shown(ev: MatrixEvent): IRoomEvent {
        return incoming(this.relay, ev.getEffectiveEvent() as unknown as IRoomEvent);
    }
}
