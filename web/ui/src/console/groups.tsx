// Groups of people, and roles: what somebody may do beyond using the server.
import { useState } from "react";
import { Banner, Button, Confirm, Dialog, Empty, ErrorNote, Switch, TextField, toast } from "../design";
import { t } from "../i18n";
import { api, messageOf } from "../setup/api";
import { GroupRoomsDialog, type Rule, titleOf } from "./grouprooms";
import { useLoaded } from "./load";
import { SaveForm } from "./settings";

export const roles = ["owner", "admin", "moderator", "auditor"] as const;
export type Role = (typeof roles)[number];

interface Group {
    name: string;
    source: string;
    members: number;
    roles: Role[];
}

/** RoleTags shows roles by their names. */
export function RoleTags({ of }: { of: Role[] }) {
    return (
        <>
            {of.map((r) => (
                <span key={r} className="hf-tag hf-tag--ok">
                    {t(`console.role.${r}`)}
                </span>
            ))}
        </>
    );
}

/** What an account is given when it is made: one role at most, and groups. */
export interface Gifts {
    roles: Role[];
    groups: string[];
}

/** GiftFields choose what new accounts are given. */
export function GiftFields({ value, onChange, roleError, groupError }: { value: Gifts; onChange: (g: Gifts) => void; roleError?: string; groupError?: string }) {
    const { value: groups, error } = useLoaded<Group[]>("/api/console/groups");
    const local = (groups ?? []).filter((g) => g.source === "local");
    return (
        <>
            <label className="hf-field">
                <span className="hf-label">{t("console.gifts.role")}</span>
                <select value={value.roles[0] ?? ""} onChange={(e) => onChange({ ...value, roles: e.target.value === "" ? [] : [e.target.value as Role] })} data-testid="gift-role">
                    <option value="">{t("console.gifts.member")}</option>
                    {roles.map((r) => (
                        <option key={r} value={r}>
                            {t(`console.role.${r}`)}
                        </option>
                    ))}
                </select>
            </label>
            <ErrorNote>{roleError}</ErrorNote>
            {local.length > 0 && (
                <fieldset className="console-gifts">
                    <legend className="hf-label">{t("console.gifts.groups")}</legend>
                    {local.map((g) => (
                        <Switch key={g.name} isSelected={value.groups.includes(g.name)} onChange={(on) => onChange({ ...value, groups: on ? [...value.groups, g.name] : value.groups.filter((n) => n !== g.name) })} data-testid={`gift-group-${g.name}`}>
                            {g.name}
                        </Switch>
                    ))}
                </fieldset>
            )}
            <ErrorNote>{groupError ?? error}</ErrorNote>
        </>
    );
}

/** RolesDialog gives roles and takes them; path and who name the person or the group. */
export function RolesDialog({ name, path, who, have, choice, onChange, onClose }: { name: string; path: string; who: object; have: Role[]; choice: readonly Role[]; onChange: () => Promise<void>; onClose: () => void }) {
    const [error, setError] = useState<string>();
    const set = async (role: Role, on: boolean): Promise<void> => {
        setError(undefined);
        try {
            await api("POST", path, { ...who, role, on });
        } catch (e) {
            setError(messageOf(e));
        }
        await onChange();
    };
    return (
        <Dialog title={t("console.roles.title", { name })} isOpen onClose={onClose}>
            {choice.map((r) => (
                <Switch key={r} isSelected={have.includes(r)} onChange={(on) => void set(r, on)} hint={t(`console.role.${r}Hint`)} data-testid={`role-${r}`}>
                    {t(`console.role.${r}`)}
                </Switch>
            ))}
            <p className="hf-hint">{t("console.roles.hint")}</p>
            <ErrorNote>{error}</ErrorNote>
            <div className="hf-actions">
                <Button onPress={onClose}>{t("common.close")}</Button>
            </div>
        </Dialog>
    );
}

export function GroupsPage({ acts }: { acts: boolean }) {
    const { value: groups, error, reload } = useLoaded<Group[]>("/api/console/groups");
    const [making, setMaking] = useState(false);
    const [open, setOpen] = useState<string>();
    const [ranks, setRanks] = useState<string>();
    const [asked, setAsked] = useState<Group>();
    const [placed, setPlaced] = useState<string>();
    const [renamed, setRenamed] = useState<string>();
    const ranked = groups?.find((g) => g.name === ranks);
    return (
        <>
            <div className="console-title">
                <h1>{t("console.groups.title")}</h1>
                {acts && (
                    <Button icon="add" onPress={() => setMaking(true)} data-testid="group-new">
                        {t("console.groups.new")}
                    </Button>
                )}
            </div>
            <p className="hf-hint">{t("console.groups.text")}</p>
            <ErrorNote>{error}</ErrorNote>
            {groups?.length === 0 && <Empty icon="people" title={t("console.groups.none")} />}
            <ul className="console-list" data-testid="groups">
                {(groups ?? []).map((g) => (
                    <li key={g.name}>
                        <span className="console-who">
                            <b>{g.name}</b>
                            <span className="hf-hint">{g.source === "local" ? t("console.groups.local") : t("console.groups.from", { source: g.source })}</span>
                        </span>
                        <span className="console-tags">
                            <RoleTags of={g.roles} />
                        </span>
                        <span className="console-buttons">
                            <Button look="plain" icon="people" onPress={() => setOpen(g.name)}>
                                {t("console.groups.members", { count: g.members })}
                            </Button>
                            <Button look="plain" icon="hash" onPress={() => setPlaced(g.name)}>
                                {t("console.grouprooms")}
                            </Button>
                            {acts && (
                                <>
                                    <Button look="plain" onPress={() => setRanks(g.name)}>
                                        {t("console.roles")}
                                    </Button>
                                    {g.source === "local" && (
                                        <Button look="plain" icon="edit" onPress={() => setRenamed(g.name)}>
                                            {t("console.groups.rename")}
                                        </Button>
                                    )}
                                    <Button look="plain" icon="trash" onPress={() => setAsked(g)}>
                                        {t("console.groups.remove")}
                                    </Button>
                                </>
                            )}
                        </span>
                    </li>
                ))}
            </ul>
            {making && (
                <Named
                    title={t("console.groups.new")}
                    save={async (name) => {
                        await api("POST", "/api/console/groups/create", { name });
                        await reload();
                        setMaking(false);
                    }}
                    onClose={() => setMaking(false)}
                />
            )}
            {ranked && <RolesDialog name={ranked.name} path="/api/console/groups/role" who={{ name: ranked.name }} have={ranked.roles} choice={roles.slice(1)} onChange={reload} onClose={() => setRanks(undefined)} />}
            {open && <Members name={open} acts={acts && groups?.find((g) => g.name === open)?.source === "local"} onChange={reload} onClose={() => setOpen(undefined)} />}
            {renamed && <Rename name={renamed} onChange={reload} onClose={() => setRenamed(undefined)} />}
            {placed && <GroupRoomsDialog name={placed} acts={acts} onClose={() => setPlaced(undefined)} />}
            {asked && (
                <Confirm
                    title={t("console.groups.removeTitle", { name: asked.name })}
                    yes={t("console.groups.remove")}
                    danger
                    isOpen
                    onYes={async () => {
                        await api("POST", "/api/console/groups/delete", { name: asked.name });
                        toast(t("console.groups.removed", { name: asked.name }));
                        await reload();
                    }}
                    onClose={() => setAsked(undefined)}
                >
                    {t("console.groups.removeText")}
                </Confirm>
            )}
        </>
    );
}

function Named({ title, save, onClose }: { title: string; save: (name: string) => Promise<void>; onClose: () => void }) {
    const [name, setName] = useState("");
    return (
        <Dialog title={title} isOpen onClose={onClose}>
            <SaveForm save={() => save(name)} button={t("console.groups.make")} testId="group-make" onCancel={onClose} fields={(wrong) => <TextField label={t("console.groups.name")} value={name} onChange={setName} error={wrong("name")} autoFocus autoComplete="off" />} />
        </Dialog>
    );
}

/** Rename gives a group another name, and says what goes with it. */
function Rename({ name, onChange, onClose }: { name: string; onChange: () => Promise<void>; onClose: () => void }) {
    const { value: rooms, error: noRooms } = useLoaded<{ rules: Rule[] }>(`/api/console/groups/rooms?${new URLSearchParams({ name })}`);
    const { value: apps, error: noApps } = useLoaded<{ name: string; groups: string[] }[]>("/api/console/apps");
    const [to, setTo] = useState(name);
    const rules = rooms?.rules ?? [];
    const own = (apps ?? []).filter((a) => a.groups.includes(name));
    return (
        <Dialog title={t("console.groups.renameTitle", { name })} isOpen onClose={onClose}>
            <SaveForm
                save={async () => {
                    await api("POST", "/api/console/groups/rename", { name, to: to.trim() });
                    toast(t("console.groups.renamed", { name: to.trim() }));
                    await onChange();
                    onClose();
                }}
                button={t("console.groups.rename")}
                testId="group-rename"
                onCancel={onClose}
                fields={(wrong) => (
                    <>
                        <TextField label={t("console.groups.name")} value={to} onChange={setTo} error={wrong("name")} autoFocus isRequired autoComplete="off" />
                        <p>{t("console.groups.renameText")}</p>
                        {rules.length > 0 && <p>{t("console.groups.renameRooms", { rooms: rules.map(titleOf).join(", ") })}</p>}
                        {own.length > 0 && <p>{t("console.groups.renameApps", { apps: own.map((a) => a.name).join(", ") })}</p>}
                        {apps && apps.length > 0 && <Banner icon="info">{t("console.groups.renameThere")}</Banner>}
                        <ErrorNote>{noRooms ?? noApps}</ErrorNote>
                    </>
                )}
            />
        </Dialog>
    );
}

function Members({ name, acts, onChange, onClose }: { name: string; acts: boolean; onChange: () => Promise<void>; onClose: () => void }) {
    const { value: members, error, reload } = useLoaded<string[]>(`/api/console/groups/members?${new URLSearchParams({ name })}`);
    const [user, setUser] = useState("");
    const [trouble, setTrouble] = useState<string>();
    const set = async (user_id: string, on: boolean): Promise<void> => {
        await api("POST", "/api/console/groups/member", { name, user_id, on });
        await Promise.all([reload(), onChange()]);
    };
    return (
        <Dialog title={name} isOpen onClose={onClose}>
            <ErrorNote>{error ?? trouble}</ErrorNote>
            {members?.length === 0 && <p className="hf-hint">{t("console.groups.nobody")}</p>}
            <ul className="console-list" data-testid="members">
                {(members ?? []).map((m) => (
                    <li key={m}>
                        <span className="console-who">{m}</span>
                        {acts && (
                            <Button look="plain" onPress={() => void set(m, false).catch((e) => setTrouble(messageOf(e)))}>
                                {t("console.groups.takeOut")}
                            </Button>
                        )}
                    </li>
                ))}
            </ul>
            {acts && (
                <SaveForm
                    save={async () => {
                        await set(user.trim(), true);
                        setUser("");
                    }}
                    button={t("console.groups.add")}
                    testId="member-add"
                    fields={(wrong) => <TextField label={t("console.groups.who")} value={user} onChange={setUser} error={wrong("user_id")} hint={t("console.groups.whoHint")} autoComplete="off" spellCheck="false" />}
                />
            )}
        </Dialog>
    );
}
