// The messages of a chat: scrolling, older messages on demand, the unread line, who has read what.
import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "react";
import { EventType, KnownMembership, type MatrixEvent, MsgType, NotificationCountType, type Room, RoomMemberEvent } from "matrix-js-sdk";
import { Button, Empty, Icon, IconButton, Spinner } from "../design";
import { t } from "../i18n";
import { Lightbox } from "./attachment";
import { nameOf, useClient, useRefresh } from "./context";
import { describe, kindOf, summary } from "./describe";
import { day, names } from "./format";
import { firstUnread, newSince, type Row, toRows } from "./group";
import { Message, type MessageActions } from "./message";
import { useTimeline } from "./usetimeline";

interface Item {
    id: string;
    sender: string;
    ts: number;
    kind: "message" | "change";
    event: MatrixEvent;
}

const mostReaders = 100;

export function Timeline({ room, direct, actions: given }: { room: Room; direct: boolean; actions: Omit<MessageActions, "goTo" | "openMedia"> }) {
    const client = useClient();
    const me = client.getSafeUserId();
    const scroller = useRef<HTMLDivElement>(null);
    const content = useRef<HTMLOListElement>(null);
    const atEnd = useRef(true);
    const anchor = useRef<{ key: string; top: number }>(undefined);
    const placed = useRef(false);
    const wanted = useRef<string>(undefined);
    const [far, setFar] = useState(false);
    const [ended, setEnded] = useState(true);
    const [missed, setMissed] = useState(0);
    const [active, setActive] = useState<string>();
    const [focused, setFocused] = useState<string>();
    const [found, setFound] = useState<string>();
    const [media, setMedia] = useState<MatrixEvent>();
    // What had been read when the chat was opened. The line is drawn once and stays until the chat is opened again.
    const [readUpTo] = useState(() => (room.getAccountData("m.fully_read")?.getContent()["event_id"] as string | undefined) ?? room.getEventReadUpTo(me) ?? undefined);
    const [hasUnread] = useState(() => room.getUnreadNotificationCount(NotificationCountType.Total) > 0);
    const timeline = useTimeline(client, room, hasUnread ? readUpTo : undefined);

    const items = useMemo(() => {
        const seen = new Set<string>();
        const out: Item[] = [];
        for (const event of [...timeline.events, ...timeline.pending]) {
            const kind = kindOf(event);
            const id = event.getId();
            if (!kind || !id || seen.has(id) || (kind === "change" && isSetUp(room, event))) continue;
            seen.add(id);
            out.push({ id, sender: event.getSender() ?? "", ts: event.getTs(), kind, event });
        }
        return out;
        // The window's list changes in place: version says when.
        // oxlint-disable-next-line react-hooks/exhaustive-deps
    }, [timeline.version, timeline.state]);
    const [line, setLine] = useState<string | null>();
    const lineAt = line === undefined && timeline.state === "ready" ? firstUnread(items, timeline.events.map((e) => e.getId() ?? ""), readUpTo, me) : (line ?? undefined);
    useEffect(() => {
        if (line === undefined && timeline.state === "ready") setLine(lineAt ?? null);
    }, [line, lineAt, timeline.state]);
    const rows = useMemo(() => toRows(items, lineAt), [items, lineAt]);
    // oxlint-disable-next-line react-hooks/exhaustive-deps
    const { readers, seen } = useMemo(() => readersOf(room, me, items, timeline.events, timeline.canForward), [room, me, items, timeline.version]);

    // Place: stay at the end, or keep what is being read where it is.
    const settle = useCallback(() => {
        const s = scroller.current;
        if (!s) return;
        if (wanted.current) {
            const el = s.querySelector(`[data-id="${CSS.escape(wanted.current)}"]`);
            if (el) {
                wanted.current = undefined;
                el.scrollIntoView({ block: "center" });
                return;
            }
        }
        if (atEnd.current) {
            s.scrollTop = s.scrollHeight;
            return;
        }
        const a = anchor.current;
        const el = a && s.querySelector<HTMLElement>(`[data-key="${CSS.escape(a.key)}"]`);
        if (a && el) {
            const moved = el.offsetTop - s.scrollTop - a.top;
            if (Math.abs(moved) > 0.5) s.scrollTop += moved;
        }
    }, []);

    const note = useCallback(() => {
        const s = scroller.current;
        const list = content.current;
        if (!s || !list) return;
        const distance = s.scrollHeight - s.scrollTop - s.clientHeight;
        atEnd.current = distance < 40 && !timeline.canForward;
        setFar(distance > s.clientHeight * 0.8 || timeline.canForward);
        setEnded(atEnd.current);
        if (atEnd.current) setMissed(0);
        for (const el of list.children as HTMLCollectionOf<HTMLElement>) {
            // Only messages keep their key when older ones come before them.
            if (el.dataset["id"] && el.offsetTop + el.offsetHeight > s.scrollTop + 8) {
                anchor.current = { key: el.dataset["id"], top: el.offsetTop - s.scrollTop };
                break;
            }
        }
        if (s.scrollTop < 800 && timeline.canBack && !timeline.backFailed) timeline.back();
        if (distance < 600 && timeline.canForward) timeline.forward();
    }, [timeline]);

    useLayoutEffect(() => {
        const s = scroller.current;
        if (!s || timeline.state !== "ready") return;
        if (!placed.current && rows.length) {
            placed.current = true;
            const line = s.querySelector<HTMLElement>('[data-key="unread"]');
            if (line && s.scrollHeight - line.offsetTop > s.clientHeight) {
                atEnd.current = false;
                s.scrollTop = Math.max(0, line.offsetTop - s.clientHeight / 4);
                note();
                return;
            }
        }
        settle();
    }, [rows, timeline.state, settle, note]);

    useEffect(() => {
        const list = content.current;
        const s = scroller.current;
        if (!list || !s) return;
        const watch = new ResizeObserver(settle);
        watch.observe(list);
        watch.observe(s);
        return () => watch.disconnect();
    }, [settle, timeline.state]);

    // Where nothing scrolls (a short chat, or the very top) nothing else would ask for more.
    useEffect(() => {
        const s = scroller.current;
        if (s && timeline.state === "ready" && timeline.busy === undefined && placed.current && s.scrollTop < 400 && timeline.canBack && !timeline.backFailed) timeline.back();
    });

    // Reading.
    const last = timeline.canForward ? undefined : timeline.events[timeline.events.length - 1];
    const lastId = last?.getId();
    const sentFor = useRef<string>(undefined);
    const read = useCallback(() => {
        if (!last || !lastId || lastId.startsWith("~") || sentFor.current === lastId || !atEnd.current) return;
        if (document.hidden || !document.hasFocus() || room.getMyMembership() !== KnownMembership.Join) return;
        sentFor.current = lastId;
        if (room.getEventReadUpTo(me) === lastId && (room.getAccountData("m.fully_read")?.getContent()["event_id"] as string) === lastId) return;
        client.setRoomReadMarkers(room.roomId, lastId, last).catch(() => {
            sentFor.current = undefined;
        });
    }, [client, room, me, last, lastId]);
    useEffect(() => {
        const timer = setTimeout(read, 300);
        window.addEventListener("focus", read);
        document.addEventListener("visibilitychange", read);
        return () => {
            clearTimeout(timer);
            window.removeEventListener("focus", read);
            document.removeEventListener("visibilitychange", read);
        };
    }, [read, ended]);

    // New messages: counted while the end is out of sight, and read out.
    const newest = items[items.length - 1];
    const spoken = useRef<string>(undefined);
    const [announce, setAnnounce] = useState("");
    useEffect(() => {
        if (timeline.state !== "ready" || !newest || spoken.current === newest.id) return;
        const before = spoken.current;
        if (newest.event.isBeingDecrypted() || newest.event.shouldAttemptDecryption()) return;
        spoken.current = newest.id;
        if (before === undefined || newest.sender === me || newest.kind !== "message") return;
        if (!atEnd.current) setMissed((n) => n + newSince(items, before, me));
        if (document.hidden || !document.hasFocus()) setLine((old) => old ?? newest.id);
        setAnnounce(t("timeline.announce", { name: nameOf(room.getMember(newest.sender), newest.sender), text: summary(newest.event) }));
    }, [newest, items, timeline.state, timeline.version, me, room]);
    // One's own message always brings the end into view.
    const lastPending = timeline.pending[timeline.pending.length - 1]?.getTxnId();
    useEffect(() => {
        if (!lastPending) return;
        if (timeline.canForward) timeline.goTo(undefined);
        atEnd.current = true;
        settle();
        // oxlint-disable-next-line react-hooks/exhaustive-deps
    }, [lastPending, settle]);

    const toEnd = () => {
        wanted.current = undefined;
        atEnd.current = true;
        setMissed(0);
        if (timeline.canForward) timeline.goTo(undefined);
        // At once: whatever else moves meanwhile would stop a smooth scroll half way.
        settle();
    };

    const { goTo } = timeline;
    const actions = useMemo<MessageActions>(
        () => ({
            ...given,
            openMedia: setMedia,
            goTo: (id) => {
                setFound(id);
                setTimeout(() => setFound((f) => (f === id ? undefined : f)), 2500);
                atEnd.current = false;
                const el = scroller.current?.querySelector(`[data-id="${CSS.escape(id)}"]`);
                if (el) el.scrollIntoView({ block: "center" });
                else {
                    wanted.current = id;
                    goTo(id);
                }
            },
        }),
        [given, goTo],
    );

    const onKeyDown = (e: React.KeyboardEvent) => {
        const from = (e.target as HTMLElement).closest<HTMLElement>("[data-testid=message]");
        if (!from || e.target !== from) {
            if (e.key === "Escape" && from) from.focus();
            return;
        }
        const all = [...(content.current?.querySelectorAll<HTMLElement>("[data-testid=message]") ?? [])];
        const at = all.indexOf(from);
        const go = (el: HTMLElement | undefined) => {
            if (!el) return;
            e.preventDefault();
            el.focus();
            setFocused(el.dataset["id"]);
        };
        const event = room.findEventById(from.dataset["id"]!);
        switch (e.key) {
            case "ArrowUp":
                return go(all[at - 1]);
            case "ArrowDown":
                return go(all[at + 1]);
            case "Home":
                return go(all[0]);
            case "End":
                return go(all[all.length - 1]);
            case "r":
                if (event && !e.ctrlKey && !e.metaKey) {
                    e.preventDefault();
                    given.reply(event);
                }
                return;
            case "Enter":
                e.preventDefault();
                from.querySelector<HTMLElement>(".message-tools button, .picture, .file")?.focus();
        }
    };

    const lastMessage = [...rows].reverse().find((r) => r.type === "message");
    const tabStop = focused && items.some((i) => i.id === focused) ? focused : lastMessage?.type === "message" ? lastMessage.event.id : undefined;
    const pictures = useMemo(() => items.map((i) => i.event).filter((e) => e.getContent()["msgtype"] === MsgType.Image && !e.isRedacted()), [items]);

    return (
        <div className="timeline-frame">
            <div className="timeline" ref={scroller} onScroll={note} onKeyDown={onKeyDown} role="log" aria-live="off" aria-label={t("timeline.label")} data-testid="timeline" data-state={timeline.state} tabIndex={-1}>
                {timeline.state === "loading" && (
                    <div className="timeline-wait" role="status">
                        <Spinner />
                        {t("app.loading")}
                    </div>
                )}
                {timeline.state === "failed" && (
                    <Empty icon="wifiOff" title={t("timeline.failed")}>
                        <Button look="plain" onPress={() => timeline.goTo(undefined)}>
                            {t("common.retry")}
                        </Button>
                    </Empty>
                )}
                {timeline.state === "ready" && (
                    <ol ref={content} className="timeline-list" role="list">
                        <li className="timeline-top">
                            {timeline.busy === "back" ? (
                                <Spinner />
                            ) : timeline.backFailed ? (
                                <Button look="plain" onPress={timeline.back}>
                                    {t("timeline.older")}
                                </Button>
                            ) : (
                                !timeline.canBack && <Beginning room={room} />
                            )}
                        </li>
                        {rows.map((row) => (
                            <RowView key={row.key} row={row} room={room} direct={direct} active={active} tabStop={tabStop} found={found} readers={readers} seen={seen} actions={actions} onActive={setActive} />
                        ))}
                    </ol>
                )}
            </div>
            {(far || missed > 0) && timeline.state === "ready" && (
                <div className="timeline-jump">
                    <IconButton icon="down" label={missed ? t("timeline.new", { count: missed }) : t("timeline.toEnd")} placement="left" onPress={toEnd} data-testid="jump-latest">
                        {missed > 0 && <span className="hf-badge hf-badge--accent">{missed}</span>}
                    </IconButton>
                </div>
            )}
            <Typing room={room} />
            <div className="hf-hidden" aria-live="polite">
                {announce}
            </div>
            {media && (
                <Lightbox
                    event={media}
                    onClose={() => setMedia(undefined)}
                    onStep={(by) => {
                        const next = pictures[pictures.indexOf(media) + by];
                        if (next) setMedia(next);
                    }}
                />
            )}
        </div>
    );
}

interface RowProps {
    row: Row<Item>;
    room: Room;
    direct: boolean;
    active: string | undefined;
    tabStop: string | undefined;
    found: string | undefined;
    readers: Map<string, string[]>;
    seen: Set<string>;
    actions: MessageActions;
    onActive: (id: string | undefined) => void;
}

const nobody: string[] = [];

function RowView({ row, room, direct, active, tabStop, found, readers, seen, actions, onActive }: RowProps) {
    switch (row.type) {
        case "day":
            return (
                <li className="day" data-key={row.key}>
                    <span>{day(row.ts)}</span>
                </li>
            );
        case "unread":
            return (
                <li className="unread-line" data-key="unread" data-testid="unread-line">
                    <span>{t("timeline.unread")}</span>
                </li>
            );
        case "changes":
            return <Changes room={room} events={row.events} rowKey={row.key} />;
        case "message": {
            const id = row.event.id;
            return (
                <Message
                    room={room}
                    event={row.event.event}
                    first={row.first}
                    last={row.last}
                    direct={direct}
                    active={active === id}
                    focusable={tabStop === id}
                    highlighted={found === id}
                    readers={readers.get(id) ?? nobody}
                    seen={seen.has(id)}
                    actions={actions}
                    onActive={onActive}
                />
            );
        }
    }
}

function Changes({ room, events, rowKey }: { room: Room; events: Item[]; rowKey: string }) {
    const [open, setOpen] = useState(false);
    const lines = events.map((e) => ({ id: e.id, text: describe(room, e.event) })).filter((l) => l.text);
    if (!lines.length) return null;
    const few = lines.length <= 3 || open;
    return (
        <li className="changes" data-key={rowKey} data-testid="change">
            {few ? (
                lines.map((l) => <p key={l.id}>{l.text}</p>)
            ) : (
                <>
                    <p>{lines[0]!.text}</p>
                    <button type="button" className="linklike" onClick={() => setOpen(true)}>
                        {t("timeline.moreChanges", { count: lines.length - 1 })}
                    </button>
                </>
            )}
        </li>
    );
}

function Beginning({ room }: { room: Room }) {
    const encrypted = !!room.currentState.getStateEvents(EventType.RoomEncryption, "");
    return (
        <div className="beginning">
            <Icon name={encrypted ? "lock" : "chat"} />
            <p>{encrypted ? t("timeline.beginningEncrypted") : t("timeline.beginning")}</p>
        </div>
    );
}

function Typing({ room }: { room: Room }) {
    const client = useClient();
    useRefresh(client, [RoomMemberEvent.Typing]);
    const who = room
        .getMembers()
        .filter((m) => m.typing && m.userId !== client.getUserId())
        .map((m) => nameOf(m, m.userId));
    return (
        <div className="typing" aria-live="polite" data-testid="typing">
            {who.length > 0 && (
                <>
                    <span className="typing-dots" aria-hidden="true">
                        <i />
                        <i />
                        <i />
                    </span>
                    {t("timeline.typing", { count: who.length, names: names(who) })}
                </>
            )}
        </div>
    );
}

// isSetUp: what a chat is given while it is made needs no lines of its own.
function isSetUp(room: Room, event: MatrixEvent): boolean {
    const create = room.currentState.getStateEvents(EventType.RoomCreate, "");
    if (!create || event === create || event.getType() === EventType.RoomCreate) return false;
    if (event.getSender() !== create.getSender() || event.getTs() - create.getTs() > 15_000) return false;
    return event.getType() !== EventType.RoomMember || event.getStateKey() === create.getSender();
}

// readersOf finds, for each person, the newest shown message that they have read, and which of one's own messages
// all others have read. Of very large chats it tells nothing.
function readersOf(room: Room, me: string, items: Item[], events: MatrixEvent[], inPast: boolean): { readers: Map<string, string[]>; seen: Set<string> } {
    const readers = new Map<string, string[]>();
    const seen = new Set<string>();
    const others = room.getJoinedMembers().filter((m) => m.userId !== me);
    if (others.length === 0 || others.length > mostReaders) return { readers, seen };
    const place = new Map<string, number>();
    const at = new Map(items.map((item, i) => [item.id, i]));
    let shown = -1;
    for (const e of events) {
        const id = e.getId();
        if (!id) continue;
        const i = at.get(id);
        if (i !== undefined && items[i]!.kind === "message") shown = i;
        place.set(id, shown);
    }
    let all = items.length;
    for (const { userId } of others) {
        const upTo = room.getEventReadUpTo(userId) ?? "";
        // What is not in a window that stands in the past was read after it, or never.
        const i = place.get(upTo) ?? (inPast && upTo ? items.length : -1);
        all = Math.min(all, i);
        const item = items[i];
        // Nobody needs to hear that people have seen what they wrote themselves.
        if (!item || item.sender === userId) continue;
        const list = readers.get(item.id);
        if (list) list.push(userId);
        else readers.set(item.id, [userId]);
    }
    for (const item of items.slice(0, all + 1)) if (item.sender === me && item.kind === "message") seen.add(item.id);
    return { readers, seen };
}
