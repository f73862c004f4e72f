// One chat: its head, its messages, the place to write, and beside them the people and details.
import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { EventType, KnownMembership, type MatrixEvent, type Room, RoomEvent, RoomStateEvent } from "matrix-js-sdk";
import { Avatar, Banner, Button, Empty, ErrorNote, Icon, IconButton, IconToggle } from "../design";
import { t } from "../i18n";
import { navigate } from "../router";
import { useRoomCall } from "../call/state";
import { Composer } from "./composer";
import { nameOf, useClient, useOn, useRefresh } from "./context";
import { Details } from "./details";
import { useFace } from "./media";
import { canEdit } from "./message";
import { PersonDialog } from "./person";
import { directs, markDirect, otherOf, roomName, roomPicture } from "./rooms";
import { ChangedKeys } from "./securityui";
import { Timeline } from "./timeline";

export interface RoomPaneProps {
    room: Room;
    startCall: (room: Room, intent: "audio" | "video") => void;
    inCall: boolean;
    confirmDevice: () => void;
}

export function RoomPane({ room, startCall, inCall, confirmDevice }: RoomPaneProps) {
    const client = useClient();
    useRefresh(room, [RoomEvent.Name, RoomEvent.MyMembership, RoomStateEvent.Events, RoomStateEvent.Members]);
    const other = otherOf(room, directs(client));
    const name = roomName(room, other);
    const face = useFace(client, roomPicture(room, other));
    const [replyTo, setReplyTo] = useState<MatrixEvent>();
    const [editing, setEditing] = useState<MatrixEvent>();
    const [person, setPerson] = useState<string>();
    const [details, setDetails] = useState(false);
    const [files, setFiles] = useState<File[]>([]);
    const [over, setOver] = useState(false);
    const depth = useRef(0);
    const membership = room.getMyMembership();
    const members = room.getJoinedMemberCount();
    const topic = room.currentState.getStateEvents(EventType.RoomTopic, "")?.getContent()["topic"] as string | undefined;
    const encrypted = !!room.currentState.getStateEvents(EventType.RoomEncryption, "");
    const calling = useRoomCall(client, room);

    useEffect(() => {
        if (membership === KnownMembership.Join) void room.loadMembersIfNeeded().catch(() => undefined);
    }, [room, membership]);
    // A reply to a message that is deleted meanwhile has lost its sense.
    useOn(room, [RoomEvent.Redaction], () => {
        if (replyTo?.isRedacted()) setReplyTo(undefined);
        if (editing?.isRedacted()) setEditing(undefined);
    });

    const actions = useMemo(
        () => ({
            reply: (e: MatrixEvent) => (setEditing(undefined), setReplyTo(e)),
            edit: (e: MatrixEvent) => (setReplyTo(undefined), setEditing(e)),
            openPerson: setPerson,
            confirmDevice,
        }),
        [confirmDevice],
    );
    const done = useCallback(() => {
        setReplyTo(undefined);
        setEditing(undefined);
    }, []);
    const editLast = () => {
        const mine = [...room.getLiveTimeline().getEvents()].reverse().find((e) => canEdit(e, client.getSafeUserId()));
        if (mine) actions.edit(mine);
    };

    if (membership === KnownMembership.Invite) return <Invitation room={room} name={name} face={face} other={other} />;
    if (membership !== KnownMembership.Join)
        return (
            <section className="room room--gone" aria-label={name}>
                <Head name={name} />
                <Empty icon="exit" title={t("room.gone.title")}>
                    <p>{t("room.gone.text", { name })}</p>
                    <Button look="plain" onPress={() => void client.forget(room.roomId).then(() => navigate("/", { replace: true }))}>
                        {t("room.gone.forget")}
                    </Button>
                </Empty>
            </section>
        );

    const drop = {
        onDragEnter: (e: React.DragEvent) => {
            if (!e.dataTransfer.types.includes("Files")) return;
            depth.current++;
            setOver(true);
        },
        onDragLeave: () => {
            depth.current = Math.max(0, depth.current - 1);
            if (depth.current === 0) setOver(false);
        },
        onDragOver: (e: React.DragEvent) => e.dataTransfer.types.includes("Files") && e.preventDefault(),
        onDrop: (e: React.DragEvent) => {
            depth.current = 0;
            setOver(false);
            if (!e.dataTransfer.files.length) return;
            e.preventDefault();
            setFiles((old) => [...old, ...e.dataTransfer.files]);
        },
    };
    return (
        <section className={`room${details ? " room--details" : ""}`} aria-label={name}>
            <div className="room-main" {...drop}>
                <header className="room-head">
                    <IconButton className="only-narrow" icon="back" label={t("room.back")} onPress={() => navigate("/")} data-testid="back" />
                    <button type="button" className="room-title" onClick={() => (other ? setPerson(other) : setDetails(!details))}>
                        <Avatar name={name} seed={other ?? room.roomId} src={face} group={!other} />
                        <span className="room-title-text">
                            <h1>{name}</h1>
                            <span className="room-sub">
                                {encrypted ? <Icon name="lock" /> : <Icon name="globe" />}
                                <span>{other ? (encrypted ? t("room.encrypted") : t("room.notEncrypted")) : `${t("room.people", { count: members })}${topic ? ` · ${topic}` : ""}`}</span>
                            </span>
                        </span>
                    </button>
                    <IconButton icon="phone" label={t("room.callAudio")} onPress={() => startCall(room, "audio")} isDisabled={inCall} data-testid="start-audio-call" />
                    <IconButton icon="camera" label={t("room.callVideo")} onPress={() => startCall(room, "video")} isDisabled={inCall} data-testid="start-call" />
                    <IconToggle icon="people" label={t("room.details")} isSelected={details} onChange={setDetails} data-testid="room-details" />
                </header>
                {calling.length > 0 && !inCall && (
                    <Banner
                        icon="camera"
                        kind="accent"
                        role="status"
                        action={
                            <Button onPress={() => startCall(room, "video")} data-testid="join-call">
                                {t("room.joinCall")}
                            </Button>
                        }
                    >
                        {t("room.callRunning", { names: calling.map((u) => nameOf(room.getMember(u), u)).slice(0, 4).join(", ") })}
                    </Banner>
                )}
                {encrypted && <ChangedKeys room={room} />}
                <Timeline key={room.roomId} room={room} direct={!!other} actions={actions} />
                <Composer key={`composer ${room.roomId}`} room={room} name={name} replyTo={replyTo} editing={editing} onDone={done} onEditLast={editLast} files={files} setFiles={setFiles} />
                {over && (
                    <div className="drop" aria-hidden="true">
                        <Icon name="attach" />
                        {t("room.drop", { name })}
                    </div>
                )}
            </div>
            {details && <Details room={room} name={name} face={face} other={other} onClose={() => setDetails(false)} onPerson={setPerson} />}
            {person && <PersonDialog room={room} userId={person} onClose={() => setPerson(undefined)} />}
        </section>
    );
}

function Head({ name }: { name: string }) {
    return (
        <header className="room-head">
            <IconButton className="only-narrow" icon="back" label={t("room.back")} onPress={() => navigate("/")} />
            <h1 className="room-title-text">{name}</h1>
        </header>
    );
}

function Invitation({ room, name, face, other }: { room: Room; name: string; face: string | undefined; other: string | undefined }) {
    const client = useClient();
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<string>();
    const event = room.getMember(client.getSafeUserId())?.events.member;
    const from = event?.getSender() ?? "";
    const direct = other ?? (event?.getContent()["is_direct"] ? from : undefined);
    const run = async (what: () => Promise<unknown>) => {
        setBusy(true);
        setError(undefined);
        try {
            await what();
        } catch {
            setError(t("invite.failed"));
            setBusy(false);
        }
    };
    return (
        <section className="room" aria-label={name}>
            <div className="room-main">
                <Head name={name} />
                <div className="invitation">
                    <Avatar size="l" name={name} seed={other ?? room.roomId} src={face} group={!direct} />
                    <h2>{direct ? t("invite.direct", { name: nameOf(room.getMember(from), from) }) : t("invite.group", { name: nameOf(room.getMember(from), from), chat: name })}</h2>
                    <p className="hf-muted">{from}</p>
                    <ErrorNote>{error}</ErrorNote>
                    <div className="hf-actions">
                        <Button look="plain" isDisabled={busy} onPress={() => void run(() => client.leave(room.roomId).then(() => navigate("/", { replace: true })))} data-testid="invite-decline">
                            {t("invite.decline")}
                        </Button>
                        <Button
                            isPending={busy}
                            data-testid="invite-accept"
                            onPress={() =>
                                void run(async () => {
                                    await client.joinRoom(room.roomId);
                                    if (direct) await markDirect(client, room.roomId, direct);
                                })
                            }
                        >
                            {t("invite.accept")}
                        </Button>
                    </div>
                </div>
            </div>
        </section>
    );
}
