// One message: who, when, what, and what can be done with it.
import { memo, useEffect, useMemo, useState, type ReactNode } from "react";
import { EventStatus, EventType, KnownMembership, type MatrixEvent, MatrixEventEvent, MsgType, RelationType, type Room } from "matrix-js-sdk";
import { Dialog as AriaDialog, DialogTrigger, Popover, Button as RawButton } from "react-aria-components";
import { Avatar, Confirm, hue, Icon, IconButton, Menu, type MenuAction, toast } from "../design";
import { t } from "../i18n";
import { Attachment } from "./attachment";
import { nameOf, useClient, useRefresh } from "./context";
import { stripReply, summary, undecryptable } from "./describe";
import { emoji } from "./emoji";
import { fullTime, names, time } from "./format";
import { linkify, renderHtml } from "./html";
import { LinkCard } from "./linkcard";
import { useFace } from "./media";
import { waitsForConnection } from "./resend";

export interface MessageActions {
    reply: (event: MatrixEvent) => void;
    edit: (event: MatrixEvent) => void;
    openPerson: (userId: string) => void;
    goTo: (eventId: string) => void;
    openMedia: (event: MatrixEvent) => void;
    confirmDevice: () => void;
}

export interface MessageProps {
    room: Room;
    event: MatrixEvent;
    first: boolean;
    last: boolean;
    direct: boolean;
    active: boolean;
    focusable: boolean;
    highlighted: boolean;
    readers: string[];
    /** One's own message that all others have read. */
    seen: boolean;
    actions: MessageActions;
    onActive: (id: string | undefined) => void;
}

const eventChanges = [MatrixEventEvent.Decrypted, MatrixEventEvent.Replaced, MatrixEventEvent.BeforeRedaction, MatrixEventEvent.Status, MatrixEventEvent.RelationsCreated, MatrixEventEvent.LocalEventIdReplaced, MatrixEventEvent.SentinelUpdated];

const str = (v: unknown): string => (typeof v === "string" ? v : "");

/** isMine says whether the signed-in person may edit a message. */
export function canEdit(event: MatrixEvent, me: string): boolean {
    const type = event.getContent()["msgtype"];
    return event.getSender() === me && event.getType() === EventType.RoomMessage && (type === MsgType.Text || type === MsgType.Emote) && !event.isRedacted() && !event.status;
}

export const Message = memo(function Message({ room, event, first, last, direct, active, focusable, highlighted, readers, seen, actions, onActive }: MessageProps) {
    const client = useClient();
    useRefresh(event, eventChanges);
    const me = client.getSafeUserId();
    const sender = event.getSender() ?? "";
    const own = sender === me;
    const name = nameOf(event.sender ?? room.getMember(sender), sender);
    const face = useFace(client, first && !own ? (event.sender ?? room.getMember(sender))?.getMxcAvatarUrl() : undefined, 32);
    const [held, setHeld] = useState(false);
    const [deleting, setDeleting] = useState(false);
    const id = event.getId()!;
    const waiting = waitsForConnection(event);
    const failed = event.status === EventStatus.NOT_SENT && !waiting;
    const redacted = event.isRedacted();
    const edited = event.replacingEvent();
    const content = event.getContent();
    const replyTo = !redacted && event.replyEventId;
    const picture = !redacted && !event.isDecryptionFailure() && (content["msgtype"] === MsgType.Image || content["msgtype"] === MsgType.Video || event.getType() === EventType.Sticker);
    const jumbo = !redacted && content["msgtype"] === MsgType.Text && !replyTo && isOnlyEmoji(str(content["body"]));
    const emote = content["msgtype"] === MsgType.Emote;

    const mayRedact = !redacted && !event.status && (room.currentState.maySendRedactionForEvent(event, me) || own);
    const menu: MenuAction[] = [
        ...(canEdit(event, me) ? [{ id: "edit", label: t("message.edit"), icon: "edit" as const, onAction: () => actions.edit(event) }] : []),
        ...(str(content["body"]) && !redacted ? [{ id: "copy", label: t("message.copy"), icon: "copy" as const, onAction: () => void navigator.clipboard.writeText(stripReply(str(content["body"]))).then(() => toast(t("common.copied"))) }] : []),
        ...(mayRedact ? [{ id: "delete", label: t("message.delete"), icon: "trash" as const, danger: true, "data-testid": "message-delete", onAction: () => setDeleting(true) }] : []),
    ];
    const show = (active || held) && !event.status && !redacted;

    return (
        <li
            className={["message", own ? "message--own" : "message--other", first && "message--first", last && "message--last", picture && "message--picture", jumbo && "message--jumbo", highlighted && "message--found", failed && "message--failed"].filter(Boolean).join(" ")}
            data-testid="message"
            data-id={id}
            data-key={id}
            data-own={own}
            data-status={event.status ?? "sent"}
            tabIndex={focusable ? 0 : -1}
            aria-label={t("message.label", { name: own ? t("message.me") : name, time: time(event.getTs()), text: summary(event) })}
            onPointerEnter={(e) => e.pointerType === "mouse" && onActive(id)}
            // A message gets another ID once it is sent, under a mouse that may stay.
            onPointerMove={(e) => e.pointerType === "mouse" && !active && onActive(id)}
            onPointerLeave={(e) => e.pointerType === "mouse" && !held && onActive(undefined)}
            onClick={(e) => (e.target as Element).closest("a,button,summary") === null && onActive(id)}
            onFocus={() => onActive(id)}
        >
            <div className="message-side">
                {!own && !direct && first && (
                    <RawButton className="message-face" aria-label={name} onPress={() => actions.openPerson(sender)} excludeFromTabOrder>
                        <Avatar name={name} seed={sender} src={face} size="s" />
                    </RawButton>
                )}
            </div>
            <div className="message-main">
                <div className="message-bubble">
                    {first && !own && !direct && <div className={`message-name hf-who-${hue(sender)}`}>{name}</div>}
                    {replyTo && <Quote room={room} eventId={replyTo} onGo={() => actions.goTo(replyTo)} />}
                    {redacted ? (
                        <div className="message-deleted">
                            <Icon name="trash" />
                            {t("message.deleted")}
                        </div>
                    ) : event.isDecryptionFailure() || event.getType() === EventType.RoomMessageEncrypted ? (
                        <Locked event={event} onConfirm={actions.confirmDevice} />
                    ) : (
                        <>
                            {emote && <span className="message-emote">{name} </span>}
                            <Body room={room} event={event} actions={actions} />
                            <LinkCard room={room} event={event} />
                        </>
                    )}
                    <span className="message-meta">
                        {edited && !redacted && <span title={fullTime(edited.getTs())}>{t("message.edited")}</span>}
                        <time dateTime={new Date(event.getTs()).toISOString()} title={fullTime(event.getTs())}>
                            {time(event.getTs())}
                        </time>
                        {own && !failed && <Sent pending={!!event.status && event.status !== EventStatus.SENT} seen={seen} />}
                    </span>
                    {show && (
                        <div className="message-tools" role="toolbar" aria-label={t("message.tools")}>
                            <ReactPicker event={event} onHeld={setHeld} />
                            <IconButton small icon="reply" label={t("message.reply")} onPress={() => actions.reply(event)} data-testid="message-reply" />
                            {menu.length > 0 && (
                                <Menu label={t("message.more")} items={menu} onOpenChange={setHeld} trigger={<IconButton small icon="more" label={t("message.more")} data-testid="message-more" />} />
                            )}
                        </div>
                    )}
                </div>
                {!redacted && <Reactions room={room} event={event} />}
                {failed && <Failed room={room} event={event} />}
                {waiting && <span className="hf-hint">{t("message.waiting")}</span>}
                {readers.length > 0 && <Readers room={room} users={readers} direct={direct} own={own} />}
            </div>
            <Confirm
                title={t("message.deleteTitle")}
                yes={t("message.delete")}
                danger
                isOpen={deleting}
                onClose={() => setDeleting(false)}
                onYes={() => client.redactEvent(room.roomId, id, undefined, { with_rel_types: [RelationType.Replace] })}
            >
                {t("message.deleteText")}
            </Confirm>
        </li>
    );
});

function Sent({ pending, seen }: { pending: boolean; seen: boolean }) {
    return (
        <span className={`message-sent${pending ? " message-sent--pending" : ""}${seen ? " message-sent--seen" : ""}`} role="img" aria-label={pending ? t("message.sending") : seen ? t("message.seen") : t("message.sent")}>
            {pending ? <span className="message-clock" /> : <Icon name={seen ? "checks" : "check"} />}
        </span>
    );
}

function Locked({ event, onConfirm }: { event: MatrixEvent; onConfirm: () => void }) {
    const decrypting = event.isBeingDecrypted() || !event.isDecryptionFailure();
    const text = decrypting ? t("message.decrypting") : undecryptable(event);
    const helps = text === t("message.locked.confirm");
    return (
        <div className="message-locked">
            <Icon name="lock" />
            <span>
                {text}{" "}
                {helps && (
                    <RawButton className="linklike" onPress={onConfirm}>
                        {t("security.confirm.do")}
                    </RawButton>
                )}
            </span>
        </div>
    );
}

const blocks = /<(p|div|ul|ol|blockquote|pre|table|h[1-6]|hr|br|details)\b/i;

function Body({ room, event, actions }: { room: Room; event: MatrixEvent; actions: MessageActions }): ReactNode {
    const me = useClient().getSafeUserId();
    const content = event.getContent();
    const type = event.getType() === EventType.Sticker ? MsgType.Image : content["msgtype"];
    const html = content["format"] === "org.matrix.custom.html" ? str(content["formatted_body"]) : "";
    const body = str(content["body"]);
    const text = useMemo(() => {
        if (!html) return linkify(stripReply(body));
        return renderHtml(html, {
            mention: (userId, shown) => {
                const member = room.getMember(userId);
                return (
                    <RawButton className={userId === me ? "mention mention--me" : "mention"} onPress={() => actions.openPerson(userId)}>
                        {`@${(member ? nameOf(member, userId) : shown).replace(/^@/, "")}`}
                    </RawButton>
                );
            },
        });
    }, [html, body, room, actions, me]);
    switch (type) {
        case MsgType.Image:
        case MsgType.Video:
        case MsgType.Audio:
        case MsgType.File: {
            const filename = str(content["filename"]);
            return (
                <>
                    <Attachment event={event} type={type} onOpen={() => actions.openMedia(event)} />
                    {filename && body && filename !== body && <div className="message-text">{text}</div>}
                </>
            );
        }
        case MsgType.Location:
            return <div className="message-text">{body}</div>;
        default:
            if (!body && !html) return <div className="message-deleted">{t("message.unknown")}</div>;
            return <div className={`message-text${blocks.test(html) ? " message-text--html" : ""}${type === MsgType.Notice ? " message-text--notice" : ""}`}>{text}</div>;
    }
}

/** isOnlyEmoji: one to three emoji and nothing else are shown large. */
export function isOnlyEmoji(text: string): boolean {
    const bare = text.replaceAll(/\s/g, "");
    if (!bare || bare.length > 24 || !/^[\p{Extended_Pictographic}\p{Emoji_Component}]+$/u.test(bare) || !/\p{Extended_Pictographic}|\p{Regional_Indicator}/u.test(bare)) return false;
    return [...new Intl.Segmenter(undefined, { granularity: "grapheme" }).segment(bare)].length <= 3;
}

/** useEvent finds an event in the chat, asking the server if it is not loaded. */
export function useEvent(room: Room, eventId: string): MatrixEvent | null | undefined {
    const client = useClient();
    const here = room.findEventById(eventId);
    const [fetched, setFetched] = useState<MatrixEvent | null>();
    useEffect(() => {
        if (here || eventId.startsWith("~")) return;
        let gone = false;
        client
            .fetchRoomEvent(room.roomId, eventId)
            .then(async (raw) => {
                const event = client.getEventMapper()(raw);
                await client.decryptEventIfNeeded(event);
                if (!gone) setFetched(event);
            })
            .catch(() => gone || setFetched(null));
        return () => {
            gone = true;
        };
    }, [client, room, eventId, here]);
    return here ?? fetched;
}

export function Quote({ room, eventId, onGo }: { room: Room; eventId: string; onGo?: () => void }) {
    const event = useEvent(room, eventId);
    useRefresh(event, eventChanges);
    const sender = event?.getSender() ?? "";
    const inside =
        event === undefined ? (
            <span className="quote-text">{t("app.loading")}</span>
        ) : event === null ? (
            <span className="quote-text">{t("message.quoteGone")}</span>
        ) : (
            <>
                <span className="quote-name">{nameOf(event.sender ?? room.getMember(sender), sender)}</span>
                <span className="quote-text">{summary(event)}</span>
            </>
        );
    const look = `quote hf-who-${hue(sender)}`;
    return onGo ? (
        <RawButton className={look} onPress={onGo}>
            {inside}
            <span className="hf-hidden">{t("message.goToQuoted")}</span>
        </RawButton>
    ) : (
        <div className={look}>{inside}</div>
    );
}

interface Counted {
    key: string;
    users: string[];
    mine: MatrixEvent | undefined;
}

function Reactions({ room, event }: { room: Room; event: MatrixEvent }) {
    const client = useClient();
    const id = event.getId()!;
    const relations = room.relations.getChildEventsForEvent(id, RelationType.Annotation, EventType.Reaction);
    useRefresh(event, [MatrixEventEvent.RelationsCreated]);
    useRefresh(relations, ["Relations.add", "Relations.remove", "Relations.redaction"]);
    const me = client.getSafeUserId();
    const counted: Counted[] = [];
    for (const [key, events] of relations?.getSortedAnnotationsByKey() ?? []) {
        const alive = [...events].filter((e) => !e.isRedacted());
        if (!alive.length || !key) continue;
        counted.push({ key, users: [...new Set(alive.map((e) => e.getSender() ?? ""))], mine: alive.find((e) => e.getSender() === me) });
    }
    if (!counted.length) return null;
    return (
        <div className="reactions" role="group" aria-label={t("message.reactions")}>
            {counted.map(({ key, users, mine }) => {
                const who = names(users.map((u) => (u === me ? t("message.you") : nameOf(room.getMember(u), u))), 6);
                return (
                    <button
                        key={key}
                        type="button"
                        className={`reaction${mine ? " reaction--mine" : ""}`}
                        aria-pressed={!!mine}
                        title={who}
                        aria-label={t("message.reaction", { emoji: key, count: users.length, who })}
                        onClick={() => void (mine ? client.redactEvent(room.roomId, mine.getId()!) : react(client, room.roomId, id, key)).catch(() => toast(t("message.notSent")))}
                    >
                        <span>{key.length > 16 ? `${key.slice(0, 15)}…` : key}</span>
                        <span className="reaction-count">{users.length}</span>
                    </button>
                );
            })}
        </div>
    );
}

function react(client: ReturnType<typeof useClient>, roomId: string, eventId: string, key: string): Promise<unknown> {
    return client.sendEvent(roomId, EventType.Reaction, { "m.relates_to": { rel_type: RelationType.Annotation, event_id: eventId, key } });
}

function ReactPicker({ event, onHeld }: { event: MatrixEvent; onHeld: (held: boolean) => void }) {
    const client = useClient();
    return (
        <DialogTrigger onOpenChange={onHeld}>
            <IconButton small icon="react" label={t("message.react")} data-testid="message-react" />
            <Popover className="hf-popover" placement="top">
                <AriaDialog className="emoji-quick" aria-label={t("message.react")}>
                    {({ close }) =>
                        emoji.quick.map((key) => (
                            <button
                                key={key}
                                type="button"
                                className="emoji"
                                aria-label={key}
                                onClick={() => {
                                    close();
                                    void react(client, event.getRoomId()!, event.getId()!, key).catch(() => toast(t("message.notSent")));
                                }}
                            >
                                {key}
                            </button>
                        ))
                    }
                </AriaDialog>
            </Popover>
        </DialogTrigger>
    );
}

function Failed({ room, event }: { room: Room; event: MatrixEvent }) {
    const client = useClient();
    return (
        <div className="message-problem" role="alert">
            <Icon name="alert" />
            <span>{t("message.notSent")}</span>
            <RawButton className="linklike" onPress={() => void client.resendEvent(event, room).catch(() => undefined)} data-testid="message-resend">
                {t("common.retry")}
            </RawButton>
            <RawButton className="linklike" onPress={() => client.cancelPendingEvent(event)}>
                {t("message.discard")}
            </RawButton>
        </div>
    );
}

function Readers({ room, users, direct, own }: { room: Room; users: string[]; direct: boolean; own: boolean }) {
    const present = users.filter((u) => room.getMember(u)?.membership === KnownMembership.Join);
    if (!present.length || direct) return direct && own && present.length ? <span className="hf-hidden">{t("message.seen")}</span> : null;
    const all = present.map((u) => nameOf(room.getMember(u), u));
    return (
        <div className="readers" title={t("message.seenBy", { names: names(all, 20) })} role="img" aria-label={t("message.seenBy", { names: names(all, 5) })}>
            {present.slice(0, 5).map((u) => (
                <Reader key={u} room={room} userId={u} />
            ))}
            {present.length > 5 && <span>{`+${present.length - 5}`}</span>}
        </div>
    );
}

function Reader({ room, userId }: { room: Room; userId: string }) {
    const client = useClient();
    const member = room.getMember(userId);
    return <Avatar size="xs" name={nameOf(member, userId)} seed={userId} src={useFace(client, member?.getMxcAvatarUrl(), 20)} />;
}
