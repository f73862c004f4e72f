// Starting chats and bringing people in: a direct chat, a group, open groups, people into a group, and an
// invitation link for somebody without an account.
import { useEffect, useState } from "react";
import type { IPublicRoomsChunkRoom, Room } from "matrix-js-sdk";
import { Avatar, Button, CopyButton, Dialog, Empty, ErrorNote, RadioGroup, Spinner, TextField, toast } from "../design";
import { t } from "../i18n";
import { navigate } from "../router";
import { createGroup, startDirect } from "./create";
import { localpart, useClient } from "./context";
import { fullTime } from "./format";
import { PeoplePicker, type Person } from "./people";

export const placeOf = (roomId: string): string => `/chat/${encodeURIComponent(roomId)}`;

export function NewDirect({ onClose }: { onClose: () => void }) {
    const client = useClient();
    const [busy, setBusy] = useState<Person>();
    const [error, setError] = useState<string>();
    const go = async (p: Person) => {
        setBusy(p);
        setError(undefined);
        try {
            const id = await startDirect(client, p.userId);
            onClose();
            navigate(placeOf(id));
        } catch {
            setError(t("direct.failed", { name: p.name }));
            setBusy(undefined);
        }
    };
    return (
        <Dialog title={t("direct.title")} isOpen onClose={onClose} data-testid="direct-dialog">
            {busy ? (
                <p role="status" className="busy">
                    <Spinner /> {t("direct.opening", { name: busy.name })}
                </p>
            ) : (
                <PeoplePicker label={t("direct.who")} chosen={[]} onChange={([p]) => p && void go(p)} single autoFocus />
            )}
            <ErrorNote>{error}</ErrorNote>
        </Dialog>
    );
}

export function NewGroup({ onClose }: { onClose: () => void }) {
    const client = useClient();
    const [name, setName] = useState("");
    const [topic, setTopic] = useState("");
    const [people, setPeople] = useState<Person[]>([]);
    const [kind, setKind] = useState<"private" | "open">("private");
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<string>();
    const [nameless, setNameless] = useState(false);
    const make = async () => {
        if (!name.trim()) return setNameless(true);
        setBusy(true);
        setError(undefined);
        try {
            const id = await createGroup(client, { name: name.trim(), topic: topic.trim(), people: people.map((p) => p.userId), open: kind === "open" });
            onClose();
            navigate(placeOf(id));
        } catch (e) {
            setError(t("group.failed", { why: e instanceof Error ? e.message : String(e) }));
            setBusy(false);
        }
    };
    return (
        <Dialog title={t("group.title")} isOpen onClose={onClose} data-testid="group-dialog">
            <form
                onSubmit={(e) => {
                    e.preventDefault();
                    void make();
                }}
            >
                <TextField label={t("group.name")} value={name} onChange={(v) => (setName(v), setNameless(false))} error={nameless ? t("group.needsName") : undefined} autoFocus maxLength={200} autoComplete="off" data-testid="group-name" />
                <TextField label={t("group.topic")} value={topic} onChange={setTopic} maxLength={1000} autoComplete="off" />
                <PeoplePicker label={t("group.people")} chosen={people} onChange={setPeople} />
                <RadioGroup
                    label={t("group.kind")}
                    value={kind}
                    onChange={setKind}
                    choices={[
                        { value: "private", label: t("group.private"), hint: t("group.privateHint") },
                        { value: "open", label: t("group.open"), hint: t("group.openHint") },
                    ]}
                />
                <ErrorNote>{error}</ErrorNote>
                <div className="hf-actions">
                    <Button look="plain" onPress={onClose}>
                        {t("common.cancel")}
                    </Button>
                    <Button type="submit" isPending={busy} data-testid="group-create">
                        {t("group.create")}
                    </Button>
                </div>
            </form>
        </Dialog>
    );
}

export function OpenGroups({ onClose }: { onClose: () => void }) {
    const client = useClient();
    const [term, setTerm] = useState("");
    const [rooms, setRooms] = useState<IPublicRoomsChunkRoom[]>();
    const [error, setError] = useState<string>();
    const [busy, setBusy] = useState<string>();
    useEffect(() => {
        let gone = false;
        const timer = setTimeout(() => {
            client.publicRooms({ limit: 50, filter: { generic_search_term: term.trim() } }).then(
                ({ chunk }) => gone || setRooms(chunk),
                () => gone || setError(t("open.failed")),
            );
        }, 200);
        return () => {
            gone = true;
            clearTimeout(timer);
        };
    }, [client, term]);
    const join = async (id: string) => {
        setBusy(id);
        try {
            await client.joinRoom(id);
            onClose();
            navigate(placeOf(id));
        } catch {
            setError(t("open.joinFailed"));
            setBusy(undefined);
        }
    };
    return (
        <Dialog title={t("open.title")} isOpen onClose={onClose}>
            <TextField label={t("open.search")} value={term} onChange={setTerm} type="search" autoFocus autoComplete="off" />
            <ErrorNote>{error}</ErrorNote>
            {!rooms && !error && <Spinner />}
            {rooms?.length === 0 && <Empty icon="people" title={t("open.none")} />}
            <ul className="open-groups">
                {rooms?.map((r) => (
                    <li key={r.room_id}>
                        <Avatar name={r.name || t("room.unnamed")} seed={r.room_id} group />
                        <span className="person-line-text">
                            <strong>{r.name || t("room.unnamed")}</strong>
                            <span className="hf-hint">{`${t("room.people", { count: r.num_joined_members })}${r.topic ? ` · ${r.topic}` : ""}`}</span>
                        </span>
                        <Button look="plain" isPending={busy === r.room_id} onPress={() => void join(r.room_id)}>
                            {client.getRoom(r.room_id)?.getMyMembership() === "join" ? t("open.go") : t("open.join")}
                        </Button>
                    </li>
                ))}
            </ul>
        </Dialog>
    );
}

export function AddPeople({ room, onClose }: { room: Room; onClose: () => void }) {
    const client = useClient();
    const [people, setPeople] = useState<Person[]>([]);
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<string>();
    const there = room.getMembers().filter((m) => m.membership === "join" || m.membership === "invite");
    const add = async () => {
        setBusy(true);
        const failed: string[] = [];
        for (const p of people) await client.invite(room.roomId, p.userId).catch(() => failed.push(p.name));
        setBusy(false);
        if (failed.length) {
            setPeople(people.filter((p) => failed.includes(p.name)));
            return setError(t("add.failed", { names: failed.join(", ") }));
        }
        toast(t("add.done", { count: people.length }));
        onClose();
    };
    return (
        <Dialog title={t("add.title", { name: room.name })} isOpen onClose={onClose}>
            <PeoplePicker label={t("add.who")} chosen={people} onChange={setPeople} without={there.map((m) => m.userId)} autoFocus />
            <ErrorNote>{error}</ErrorNote>
            <div className="hf-actions">
                <Button look="plain" onPress={onClose}>
                    {t("common.cancel")}
                </Button>
                <Button isPending={busy} isDisabled={people.length === 0} onPress={() => void add()} data-testid="add-people">
                    {t("add.do")}
                </Button>
            </div>
        </Dialog>
    );
}

const admins = new Map<string, Promise<boolean>>();

/** useIsAdmin asks once whether the signed-in browser belongs to an administrator, when it is wanted. */
export function useIsAdmin(wanted = true): boolean {
    const client = useClient();
    const [admin, setAdmin] = useState(false);
    useEffect(() => {
        if (!wanted) return;
        const me = client.getSafeUserId();
        let asked = admins.get(me);
        if (!asked) {
            asked = fetch("/api/console/me")
                .then(async (res) => res.ok && ((await res.json()) as { user_id?: string }).user_id === me)
                .catch(() => (admins.delete(me), false));
            admins.set(me, asked);
        }
        let gone = false;
        void asked.then((yes) => gone || setAdmin(yes));
        return () => {
            gone = true;
        };
    }, [client, wanted]);
    return admin;
}

interface Invite {
    url: string;
    qr_svg: string;
    expires?: string | number;
}

export function InviteLink({ onClose }: { onClose: () => void }) {
    const [uses, setUses] = useState<"1" | "10" | "100">("1");
    const [days, setDays] = useState<"1" | "7" | "30">("7");
    const [name, setName] = useState("");
    const [invite, setInvite] = useState<Invite>();
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<string>();
    const make = async () => {
        setBusy(true);
        setError(undefined);
        try {
            const res = await fetch("/api/console/invites", {
                method: "POST",
                headers: { "content-type": "application/json" },
                body: JSON.stringify({ uses: Number(uses), expires_in: Number(days) * 86_400, ...(name.trim() ? { localpart: localpart(name.trim()) } : {}) }),
            });
            const body = (await res.json()) as Invite & { message?: string };
            if (!res.ok) throw new Error(body.message ?? String(res.status));
            setInvite(body);
        } catch (e) {
            setError(t("link.failed", { why: e instanceof Error ? e.message : String(e) }));
        } finally {
            setBusy(false);
        }
    };
    return (
        <Dialog title={t("link.title")} isOpen onClose={onClose} data-testid="invite-link">
            {!invite ? (
                <>
                    <p className="hf-muted">{t("link.text")}</p>
                    <TextField label={t("link.name")} value={name} onChange={setName} hint={t("link.nameHint")} autoComplete="off" autoFocus />
                    {!name.trim() && (
                        <RadioGroup
                            label={t("link.uses")}
                            value={uses}
                            onChange={setUses}
                            choices={(["1", "10", "100"] as const).map((value) => ({ value, label: t("link.people", { count: Number(value) }) }))}
                        />
                    )}
                    <RadioGroup label={t("link.valid")} value={days} onChange={setDays} choices={(["1", "7", "30"] as const).map((value) => ({ value, label: t("link.days", { count: Number(value) }) }))} />
                    <ErrorNote>{error}</ErrorNote>
                    <div className="hf-actions">
                        <Button isPending={busy} onPress={() => void make()} data-testid="invite-link-make">
                            {t("link.make")}
                        </Button>
                    </div>
                </>
            ) : (
                <>
                    <p>{t("link.ready")}</p>
                    <div className="qr">
                        <img src={`data:image/svg+xml,${encodeURIComponent(invite.qr_svg)}`} alt={t("link.qr")} width={220} height={220} />
                    </div>
                    <code className="hf-code" data-testid="invite-link-url">
                        {invite.url}
                    </code>
                    {invite.expires !== undefined && <p className="hf-hint">{t("link.until", { when: fullTime(new Date(invite.expires).getTime()) })}</p>}
                    <div className="hf-actions">
                        <CopyButton text={invite.url} label={t("link.copy")} />
                        <Button onPress={onClose}>{t("common.done")}</Button>
                    </div>
                </>
            )}
        </Dialog>
    );
}
