// A person: who they are, and what can be done with them in a chat.
import { useState } from "react";
import { EventType, KnownMembership, type Room } from "matrix-js-sdk";
import { Avatar, Button, Confirm, Dialog, ErrorNote, RadioGroup, toast } from "../design";
import { t } from "../i18n";
import { navigate } from "../router";
import { startDirect } from "./create";
import { localpart, nameOf, useChat, useRefresh } from "./context";
import { useFace } from "./media";
import { directWith } from "./rooms";

export type Role = "member" | "moderator" | "admin" | "owner";
const levels = { member: 0, moderator: 50, admin: 100 } as const;

/** roleOf names a power level. Owners (creators of newer rooms) cannot be changed by anybody. */
export function roleOf(level: number): Role {
    return level === Infinity ? "owner" : level >= 100 ? "admin" : level >= 50 ? "moderator" : "member";
}

export function PersonDialog({ room, userId, onClose }: { room: Room; userId: string; onClose: () => void }) {
    const { client, security } = useChat();
    useRefresh(room, ["RoomState.members", "RoomState.events"]);
    const me = client.getSafeUserId();
    const member = room.getMember(userId);
    const mine = room.getMember(me)?.powerLevel ?? 0;
    const level = member?.powerLevel ?? 0;
    const name = nameOf(member, userId);
    const face = useFace(client, member?.getMxcAvatarUrl() ?? client.getUser(userId)?.avatarUrl, 72);
    const [removing, setRemoving] = useState(false);
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<string>();
    const own = userId === me;
    const inRoom = member?.membership === KnownMembership.Join || member?.membership === KnownMembership.Invite;
    const state = room.currentState;
    const mayKick = !own && inRoom && state.hasSufficientPowerLevelFor("kick", mine) && mine > level;
    const mayRole = inRoom && member?.membership === KnownMembership.Join && state.maySendStateEvent(EventType.RoomPowerLevels, me) && (own || mine > level) && level !== Infinity;
    const run = async (what: () => Promise<unknown>) => {
        setBusy(true);
        setError(undefined);
        try {
            await what();
        } catch {
            setError(t("person.failed"));
        } finally {
            setBusy(false);
        }
    };
    const direct = directWith(client, userId);
    return (
        <>
            <Dialog title={name} isOpen onClose={onClose} data-testid="person">
                <div className="person">
                    <Avatar size="l" name={name} seed={userId} src={face} />
                    <div>
                        <p className="person-name">{name}</p>
                        <p className="hf-muted">{userId}</p>
                        {inRoom && <span className="hf-tag">{member?.membership === KnownMembership.Invite ? t("person.invited") : t(`role.${roleOf(level)}`)}</span>}
                    </div>
                </div>
                <ErrorNote>{error}</ErrorNote>
                {mayRole && (
                    <RadioGroup
                        label={t("person.role")}
                        value={roleOf(level) as keyof typeof levels}
                        onChange={(role) =>
                            void run(async () => {
                                await client.setPowerLevel(room.roomId, userId, levels[role]);
                                toast(t("person.roleSet", { name, role: t(`role.${role}`) }));
                            })
                        }
                        choices={(["member", "moderator", "admin"] as const).map((value) => ({ value, label: t(`role.${value}`), hint: t(`role.hint.${value}`), isDisabled: busy || levels[value] > mine }))}
                    />
                )}
                <div className="hf-actions">
                    {mayKick && (
                        <Button look="plain" onPress={() => setRemoving(true)} data-testid="person-remove">
                            {member?.membership === KnownMembership.Invite ? t("person.withdraw") : t("person.remove")}
                        </Button>
                    )}
                    {!own && direct && (
                        <Button look="plain" onPress={() => void run(() => security.askPerson(userId, direct.roomId).then(onClose))}>
                            {t("person.compare")}
                        </Button>
                    )}
                    {!own && (
                        <Button
                            icon="chat"
                            isPending={busy}
                            onPress={() =>
                                void run(async () => {
                                    const id = await startDirect(client, userId);
                                    onClose();
                                    navigate(`/chat/${encodeURIComponent(id)}`);
                                })
                            }
                        >
                            {t("person.message")}
                        </Button>
                    )}
                </div>
            </Dialog>
            <Confirm title={t("person.removeTitle", { name: name || localpart(userId) })} yes={t("person.remove")} danger isOpen={removing} onClose={() => setRemoving(false)} onYes={() => client.kick(room.roomId, userId).then(onClose)}>
                {t("person.removeText")}
            </Confirm>
        </>
    );
}
