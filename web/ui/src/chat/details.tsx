// Beside a chat: what it is called, who is in it, its notifications, leaving it.
import { useMemo, useRef, useState } from "react";
import { EventType, KnownMembership, type Room, type RoomMember } from "matrix-js-sdk";
import { Avatar, Button, Confirm, Dialog, ErrorNote, Icon, IconButton, Switch, TextField, toast } from "../design";
import { t } from "../i18n";
import { navigate } from "../router";
import { nameOf, useClient, useRefresh } from "./context";
import { AddPeople } from "./dialogs";
import { useFace } from "./media";
import { roleOf } from "./person";
import { markDirect } from "./rooms";

interface Props {
    room: Room;
    name: string;
    face: string | undefined;
    other: string | undefined;
    onClose: () => void;
    onPerson: (userId: string) => void;
}

/** isMuted says whether the person has turned a chat's notifications off. */
export function isMuted(client: ReturnType<typeof useClient>, roomId: string): boolean {
    return !!client.pushRules?.global?.override?.some((r) => r.rule_id === roomId && r.enabled !== false && !r.actions.includes("notify" as never));
}

const mostShown = 200;

export function Details({ room, name, face, other, onClose, onPerson }: Props) {
    const client = useClient();
    useRefresh(client, ["accountData"]);
    useRefresh(room, ["RoomState.members", "RoomState.events"]);
    const me = client.getSafeUserId();
    const [query, setQuery] = useState("");
    const [adding, setAdding] = useState(false);
    const [editing, setEditing] = useState(false);
    const [leaving, setLeaving] = useState(false);
    const topic = (room.currentState.getStateEvents(EventType.RoomTopic, "")?.getContent()["topic"] as string | undefined) ?? "";
    const encrypted = !!room.currentState.getStateEvents(EventType.RoomEncryption, "");
    const muted = isMuted(client, room.roomId);
    const members = room.getMembers().filter((m) => m.membership === KnownMembership.Join || m.membership === KnownMembership.Invite);
    const shown = useMemo(() => {
        const q = query.trim().toLocaleLowerCase();
        return members
            .filter((m) => !q || nameOf(m, m.userId).toLocaleLowerCase().includes(q) || m.userId.toLocaleLowerCase().includes(q))
            .sort((a, b) => Number(a.membership === KnownMembership.Invite) - Number(b.membership === KnownMembership.Invite) || b.powerLevel - a.powerLevel || nameOf(a, a.userId).localeCompare(nameOf(b, b.userId)));
    }, [members, query]);
    const mayEdit = room.currentState.maySendStateEvent(EventType.RoomName, me);
    return (
        <aside className="details" aria-label={t("details.label")} data-testid="details">
            <header className="details-head">
                <h2>{t("details.label")}</h2>
                <IconButton icon="close" label={t("common.close")} onPress={onClose} />
            </header>
            <div className="details-body">
                <div className="details-about">
                    <Avatar size="l" name={name} seed={other ?? room.roomId} src={face} group={!other} />
                    <h3>{name}</h3>
                    {topic && <p className="hf-muted">{topic}</p>}
                    <span className={`hf-tag${encrypted ? " hf-tag--ok" : ""}`}>
                        <Icon name={encrypted ? "lock" : "globe"} />
                        {encrypted ? t("room.encrypted") : t("room.notEncrypted")}
                    </span>
                    {mayEdit && !other && (
                        <Button look="quiet" icon="edit" onPress={() => setEditing(true)}>
                            {t("details.edit")}
                        </Button>
                    )}
                </div>
                <Switch isSelected={!muted} onChange={(on) => void client.setRoomMutePushRule("global", room.roomId, !on)?.catch(() => toast(t("settings.notSaved")))} hint={muted ? t("details.mutedHint") : undefined}>
                    {t("details.notify")}
                </Switch>
                <section className="details-people">
                    <div className="details-people-head">
                        <h3>{t("details.people", { count: members.length })}</h3>
                        {room.canInvite(me) && (
                            <Button look="quiet" icon="userAdd" onPress={() => setAdding(true)} data-testid="invite-people">
                                {t("details.add")}
                            </Button>
                        )}
                    </div>
                    {members.length > 8 && <TextField label={t("details.search")} labelHidden value={query} onChange={setQuery} placeholder={t("details.search")} type="search" autoComplete="off" />}
                    <ul data-testid="members">
                        {shown.slice(0, mostShown).map((m) => (
                            <li key={m.userId}>
                                <MemberRow member={m} own={m.userId === me} onPress={() => onPerson(m.userId)} />
                            </li>
                        ))}
                    </ul>
                    {shown.length > mostShown && <p className="hf-hint">{t("details.moreMembers", { count: shown.length - mostShown })}</p>}
                </section>
                <Button look="plain" icon="exit" onPress={() => setLeaving(true)} data-testid="leave">
                    {t("details.leave")}
                </Button>
            </div>
            {adding && <AddPeople room={room} onClose={() => setAdding(false)} />}
            {editing && <EditRoom room={room} topic={topic} onClose={() => setEditing(false)} />}
            <Confirm
                title={t("details.leaveTitle", { name })}
                yes={t("details.leave")}
                danger
                isOpen={leaving}
                onClose={() => setLeaving(false)}
                onYes={async () => {
                    await client.leave(room.roomId);
                    if (other) await markDirect(client, room.roomId, undefined).catch(() => undefined);
                    navigate("/", { replace: true });
                }}
            >
                {t("details.leaveText")}
            </Confirm>
        </aside>
    );
}

function MemberRow({ member, own, onPress }: { member: RoomMember; own: boolean; onPress: () => void }) {
    const client = useClient();
    const face = useFace(client, member.getMxcAvatarUrl(), 32);
    const role = roleOf(member.powerLevel);
    return (
        <button type="button" className="member" onClick={onPress} data-testid="member">
            <Avatar size="s" name={nameOf(member, member.userId)} seed={member.userId} src={face} />
            <span className="member-name">{own ? t("details.you", { name: nameOf(member, member.userId) }) : nameOf(member, member.userId)}</span>
            {member.membership === KnownMembership.Invite ? <span className="hf-tag">{t("person.invited")}</span> : role !== "member" && <span className="hf-tag">{t(`role.${role}`)}</span>}
        </button>
    );
}

function EditRoom({ room, topic, onClose }: { room: Room; topic: string; onClose: () => void }) {
    const client = useClient();
    const [name, setName] = useState(room.name);
    const [text, setText] = useState(topic);
    const [picture, setPicture] = useState<File>();
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<string>();
    const input = useRef<HTMLInputElement>(null);
    const save = async () => {
        setBusy(true);
        setError(undefined);
        try {
            if (name.trim() && name.trim() !== room.name) await client.setRoomName(room.roomId, name.trim());
            if (text.trim() !== topic) await client.setRoomTopic(room.roomId, text.trim());
            if (picture) {
                const { content_uri: url } = await client.uploadContent(picture, { type: picture.type });
                await client.sendStateEvent(room.roomId, EventType.RoomAvatar, { url }, "");
            }
            onClose();
        } catch {
            setError(t("settings.notSaved"));
            setBusy(false);
        }
    };
    return (
        <Dialog title={t("details.edit")} isOpen onClose={onClose}>
            <TextField label={t("group.name")} value={name} onChange={setName} maxLength={200} autoFocus />
            <TextField label={t("group.topic")} value={text} onChange={setText} maxLength={1000} multiline />
            <div className="hf-field">
                <input ref={input} type="file" accept="image/png,image/jpeg,image/webp,image/gif" hidden onChange={(e) => setPicture(e.target.files?.[0])} />
                <Button look="plain" icon="image" onPress={() => input.current?.click()}>
                    {picture ? picture.name : t("details.picture")}
                </Button>
            </div>
            <ErrorNote>{error}</ErrorNote>
            <div className="hf-actions">
                <Button look="plain" onPress={onClose}>
                    {t("common.cancel")}
                </Button>
                <Button isPending={busy} onPress={() => void save()}>
                    {t("common.save")}
                </Button>
            </div>
        </Dialog>
    );
}
