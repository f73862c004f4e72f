// The list of chats.
import { useMemo, useState } from "react";
import { ListBox, ListBoxItem } from "react-aria-components";
import { Avatar, Button, Empty, Icon, IconButton, Menu, type MenuAction, TextField } from "../design";
import { t } from "../i18n";
import { navigate } from "../router";
import { useClient, useMe } from "./context";
import { useIsAdmin } from "./dialogs";
import { brief } from "./format";
import { useFace } from "./media";
import { isMuted } from "./details";
import { draftOf } from "./drafts";
import { matches, type Summary, useRooms } from "./rooms";

export type Start = "direct" | "group" | "open" | "link";

export function RoomList({ current, onStart, children }: { current: string | undefined; onStart: (what: Start) => void; children?: React.ReactNode }) {
    const client = useClient();
    const rooms = useRooms(client);
    const [query, setQuery] = useState("");
    const shown = useMemo(() => (query.trim() ? rooms.filter((r) => matches(r, query.trim())) : rooms), [rooms, query]);
    const [asked, setAsked] = useState(false);
    const admin = useIsAdmin(asked);
    const { name: myName, picture } = useMe();
    const myFace = useFace(client, picture, 40);
    const start: MenuAction[] = [
        { id: "direct", label: t("direct.title"), icon: "chat", "data-testid": "start-dm", onAction: () => onStart("direct") },
        { id: "group", label: t("group.title"), icon: "people", "data-testid": "create-room", onAction: () => onStart("group") },
        { id: "open", label: t("open.title"), icon: "search", "data-testid": "open-groups", onAction: () => onStart("open") },
        ...(admin ? [{ id: "link", label: t("link.title"), icon: "link" as const, "data-testid": "invite-new", onAction: () => onStart("link") }] : []),
    ];
    return (
        <nav className="sidebar" aria-label={t("rooms.label")}>
            <header className="sidebar-head">
                <button type="button" className="me" onClick={() => navigate("/settings/profile")} aria-label={t("settings.open", { name: myName })} data-testid="settings">
                    <Avatar name={myName} seed={client.getSafeUserId()} src={myFace} />
                </button>
                <h1>{t("rooms.label")}</h1>
                <IconButton icon="settings" label={t("settings.title")} onPress={() => navigate("/settings/profile")} />
                <Menu label={t("rooms.start")} items={start} onOpenChange={(open) => open && setAsked(true)} trigger={<IconButton icon="add" label={t("rooms.start")} look="accent" data-testid="start-menu" />} />
            </header>
            {children}
            {rooms.length > 0 && (
                <div className="sidebar-search" role="search">
                    <Icon name="search" />
                    <TextField
                        label={t("rooms.search")}
                        labelHidden
                        placeholder={t("rooms.search")}
                        value={query}
                        onChange={setQuery}
                        type="search"
                        autoComplete="off"
                        data-testid="room-search"
                        onKeyDown={(e) => {
                            if (e.key === "Enter" && shown[0]) {
                                open(shown[0].id);
                                setQuery("");
                            }
                        }}
                    />
                </div>
            )}
            {rooms.length === 0 ? (
                <Empty icon="chat" title={t("rooms.empty.title")}>
                    <p>{t("rooms.empty.text")}</p>
                    <Button icon="chat" onPress={() => onStart("direct")}>
                        {t("direct.title")}
                    </Button>
                    <Button look="plain" icon="people" onPress={() => onStart("group")}>
                        {t("group.title")}
                    </Button>
                </Empty>
            ) : shown.length === 0 ? (
                <Empty icon="search" title={t("rooms.noneFound", { query })} />
            ) : (
                <ListBox
                    className="room-list"
                    aria-label={t("rooms.label")}
                    data-testid="room-list"
                    selectionMode="single"
                    shouldSelectOnPressUp
                    selectedKeys={current ? [current] : []}
                    items={shown}
                    dependencies={[shown, current]}
                    disallowEmptySelection={!!current && shown.some((r) => r.id === current)}
                    onSelectionChange={(keys) => {
                        if (keys === "all") return;
                        const [key] = keys;
                        if (key !== undefined && key !== current) open(String(key));
                    }}
                >
                    {(room: Summary) => (
                        <ListBoxItem key={room.id} id={room.id} textValue={room.name} className="room-item" data-testid="room-item" data-room={room.id}>
                            <RoomItem summary={room} draft={room.id === current ? "" : draftOf(room.id)} />
                        </ListBoxItem>
                    )}
                </ListBox>
            )}
        </nav>
    );
}

function open(roomId: string): void {
    navigate(`/chat/${encodeURIComponent(roomId)}`);
}

function RoomItem({ summary, draft }: { summary: Summary; draft: string }) {
    const client = useClient();
    const face = useFace(client, summary.picture, 44);
    const muted = isMuted(client, summary.id);
    return (
        <>
            <Avatar name={summary.name} seed={summary.other ?? summary.id} src={face} group={!summary.other} />
            <span className="room-item-main">
                <span className="room-item-top">
                    <span className={`room-item-name${summary.unread ? " room-item-name--unread" : ""}`}>{summary.name}</span>
                    {summary.ts > 0 && <time dateTime={new Date(summary.ts).toISOString()}>{brief(summary.ts)}</time>}
                </span>
                <span className="room-item-top">
                    <span className="room-item-text" data-testid="room-preview">
                        {draft ? (
                            <>
                                <span className="room-item-draft">{t("rooms.draft")}</span> {draft}
                            </>
                        ) : (
                            summary.text
                        )}
                    </span>
                    {muted && <Icon name="bellOff" />}
                    {summary.invite ? (
                        <span className="hf-badge hf-badge--accent">{t("rooms.new")}</span>
                    ) : (
                        <>
                            {summary.mentions > 0 && (
                                <span className="hf-badge hf-badge--danger" aria-label={t("rooms.mentions", { count: summary.mentions })} role="img">
                                    {"@"}
                                </span>
                            )}
                            {summary.unread > 0 && (
                                <span className="hf-badge hf-badge--accent" data-testid="unread" aria-label={t("rooms.unread", { count: summary.unread })} role="img">
                                    {summary.unread > 99 ? "99+" : summary.unread}
                                </span>
                            )}
                        </>
                    )}
                </span>
            </span>
        </>
    );
}
