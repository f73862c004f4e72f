// The administrators' console at /console: how the appliance is, its people, its invites. Who may look is decided by
// the browser session of the sign-in pages, not by the chat's token.
import { useEffect, useRef, useState, type ReactNode } from "react";
import { Avatar, Banner, Brand, Button, Confirm, Dialog, Empty, ErrorNote, Spinner, TextField, Toasts, toast } from "../design";
import { t } from "../i18n";
import { navigate, usePath } from "../router";
import { ApiError, type Invite, type Tls, api, messageOf } from "../setup/api";
import { InviteCard, SelfTest } from "../setup/done";
import { bytes, date, duration, number, useLoaded } from "./load";
import { AppsPage } from "./apps";
import { AuditPage } from "./audit";
import { BridgesPage } from "./bridges";
import { CardsPage, WayIn } from "./cards";
import { CallsPage } from "./calls";
import { DirectoriesPage } from "./directories";
import { type Gifts, GiftFields, GroupsPage, type Role, RoleTags, RolesDialog, roles } from "./groups";
import { ListsPage } from "./lists";
import { MachinePage } from "./machine";
import { Nav, type Page, allPages } from "./nav";
import { PushPage } from "./push";
import { Reauth } from "./reauth";
import { SettingsPage } from "./settings";
import { SignInPage } from "./signin";
import { UpstreamsPage } from "./upstreams";
import "../setup/setup.css";
import "./console.css";

interface User {
    user_id: string;
    display_name: string;
    admin: boolean;
    roles: Role[];
    disabled: boolean;
    has_password: boolean;
    devices: number;
    created: string;
    last_seen?: string;
}

interface Report {
    version: string;
    server_name: string;
    public_url: string;
    tls: Tls;
    started: string;
    now: string;
    users: number;
    rooms: number;
    events: number;
    database_bytes: number;
    media_bytes: number;
    disk_free_bytes: number;
    memory_bytes: number;
    calls: { rooms: number; participants: number; tracks: number; draining: boolean };
}

// What moderators see: who there is, and the calls, which they look after.
const moderated: readonly Page[] = ["status", "people", "calls"];

interface Me {
    user_id: string;
    machine: boolean;
    admin: boolean;
    moderator: boolean;
    reads: boolean;
}

export default function Console() {
    const path = usePath();
    const [me, setMe] = useState<Me>();
    const [trouble, setTrouble] = useState<ApiError>();
    const main = useRef<HTMLElement>(null);
    // A machine of the appliance's own is looked after here; another's is not.
    const pages = allPages.filter((p) => (p !== "machine" || me?.machine) && (me?.reads || moderated.includes(p)));
    const page: Page = pages.find((p) => path === `/console/${p}`) ?? "status";
    useEffect(() => {
        document.title = t("console.title");
        api<Me>("GET", "/api/console/me").then(setMe, (e) => setTrouble(e instanceof ApiError ? e : new ApiError(0, "unknown", messageOf(e))));
    }, []);
    if (trouble) return <Outside trouble={trouble} />;
    if (!me)
        return (
            <p className="hf-loading" role="status">
                <Spinner />
                {t("app.loading")}
            </p>
        );
    return (
        <div className="console">
            <a
                className="console-skip"
                href="#console-main"
                onClick={(e) => {
                    e.preventDefault();
                    main.current?.focus();
                }}
            >
                {t("console.skip")}
            </a>
            <header className="console-head">
                <a href="/" className="hf-brand">
                    <Brand />
                    <span className="hf-hidden">{t("console.toChat")}</span>
                </a>
                <span className="console-me hf-hint">{me.user_id}</span>
            </header>
            <Nav pages={pages} page={page} main={main} />
            <main ref={main} id="console-main" className="console-main" tabIndex={-1}>
                {!me.admin && (
                    <Banner icon="eye">
                        {t(me.moderator ? "console.moderates" : "console.looks")}
                    </Banner>
                )}
                {page === "status" && <StatusPage acts={me.admin} />}
                {page === "people" && <PeoplePage me={me.user_id} acts={me.admin} />}
                {page === "groups" && <GroupsPage acts={me.admin} />}
                {page === "invites" && <InvitesPage acts={me.admin} />}
                {page === "cards" && <CardsPage acts={me.admin} />}
                {page === "lists" && <ListsPage acts={me.admin} />}
                {page === "directories" && <DirectoriesPage acts={me.admin} />}
                {page === "upstreams" && <UpstreamsPage acts={me.admin} />}
                {page === "apps" && <AppsPage acts={me.admin} />}
                {page === "audit" && <AuditPage />}
                {page === "calls" && <CallsPage acts={me.admin || me.moderator} tests={me.admin} />}
                {page === "push" && <PushPage />}
                <fieldset className="console-fieldset" disabled={!me.admin}>
                    {page === "settings" && <SettingsPage />}
                    {page === "signin" && <SignInPage />}
                    {page === "bridges" && <BridgesPage />}
                    {page === "machine" && <MachinePage />}
                </fieldset>
            </main>
            <Reauth />
            <Toasts />
        </div>
    );
}

function Outside({ trouble }: { trouble: ApiError }) {
    const out = trouble.code === "signed_out";
    return (
        <main className="hf-page">
            <Brand />
            <div className="hf-card">
                <h1 className="hf-title">{out ? t("console.signedOut") : t("console.closed")}</h1>
                <p>{out ? t("console.signedOutText") : trouble.message}</p>
                <div className="hf-actions">
                    <a className="hf-button hf-button--plain" href="/">
                        {t("console.toChat")}
                    </a>
                    {(out || trouble.code === "reauth" || trouble.code === "second_factor") && (
                        <a className="hf-button" href={`/login?next=${encodeURIComponent(location.pathname)}`}>
                            {t("setup.signIn")}
                        </a>
                    )}
                </div>
            </div>
        </main>
    );
}

function StatusPage({ acts }: { acts: boolean }) {
    const { value: r, error } = useLoaded<Report>("/api/console/status", 5);
    const facts: [string, ReactNode][] = r
        ? [
              [t("console.status.server"), <span className="setup-mono">{r.server_name}</span>],
              [t("console.status.address"), <a href={r.public_url}>{r.public_url}</a>],
              [t("console.status.version"), r.version],
              [t("console.status.running"), duration(Date.parse(r.now) - Date.parse(r.started))],
              [t("console.status.tls"), t(`console.tls.${r.tls.mode}`)],
              [t("console.status.memory"), bytes(r.memory_bytes)],
              [t("console.status.database"), bytes(r.database_bytes)],
              [t("console.status.media"), bytes(r.media_bytes)],
              [t("console.status.free"), bytes(r.disk_free_bytes)],
          ]
        : [];
    const skew = r ? Math.abs(Date.parse(r.now) - Date.now()) : 0;
    return (
        <>
            <h1>{t("console.status.title")}</h1>
            <ErrorNote>{error}</ErrorNote>
            {r && skew > 120_000 && (
                <Banner icon="alert" kind="warn" role="alert">
                    {t("console.status.clock", { by: duration(skew) })}
                </Banner>
            )}
            {r && (
                <>
                    <dl className="console-numbers">
                        <Number label={t("console.status.users")} value={number(r.users)} />
                        <Number label={t("console.status.rooms")} value={number(r.rooms)} />
                        <Number label={t("console.status.events")} value={number(r.events)} />
                        <Number label={t("console.status.calls")} value={number(r.calls.rooms)} note={t(r.calls.draining ? "console.status.draining" : "console.status.participants", { count: r.calls.participants })} testId="calls" />
                    </dl>
                    <dl className="console-facts">
                        {facts.map(([k, v]) => (
                            <div key={k}>
                                <dt>{k}</dt>
                                <dd>{v}</dd>
                            </div>
                        ))}
                        {r.tls.ca_fingerprint && (
                            <div className="console-wide">
                                <dt>{t("setup.tls.fingerprint")}</dt>
                                <dd>
                                    <code>{r.tls.ca_fingerprint}</code>
                                    {r.tls.ca_url && (
                                        <a href={r.tls.ca_url} download>
                                            {t("setup.tls.download")}
                                        </a>
                                    )}
                                </dd>
                            </div>
                        )}
                    </dl>
                </>
            )}
            {acts && <SelfTest path="/api/console/selftest" />}
        </>
    );
}

function Number({ label, value, note, testId }: { label: string; value: string; note?: string; testId?: string }) {
    return (
        <div className="console-number" data-testid={testId}>
            <dt>{label}</dt>
            <dd>
                {value}
                {note && <span className="hf-hint">{note}</span>}
            </dd>
        </div>
    );
}

function PeoplePage({ me, acts }: { me: string; acts: boolean }) {
    const { value: users, error, reload } = useLoaded<User[]>("/api/console/users");
    const [search, setSearch] = useState("");
    const [asked, setAsked] = useState<User>();
    const [ranks, setRanks] = useState<string>();
    const [lost, setLost] = useState<User>();
    const ranked = users?.find((u) => u.user_id === ranks);
    const shown = (users ?? []).filter((u) => (u.user_id + " " + u.display_name).toLowerCase().includes(search.trim().toLowerCase()));
    const lock = async (u: User, disabled: boolean): Promise<void> => {
        await api("POST", `/api/console/users/${encodeURIComponent(u.user_id)}/disabled`, { disabled });
        toast(disabled ? t("console.people.locked", { name: u.user_id }) : t("console.people.unlocked", { name: u.user_id }));
        await reload();
    };
    return (
        <>
            <div className="console-title">
                <h1>{t("console.people.title")}</h1>
                {acts && (
                    <Button icon="userAdd" onPress={() => navigate("/console/invites")}>
                        {t("console.invites.new")}
                    </Button>
                )}
            </div>
            <ErrorNote>{error}</ErrorNote>
            <TextField label={t("console.people.search")} type="search" value={search} onChange={setSearch} />
            {users && shown.length === 0 && <Empty icon="people" title={t("console.people.nobody")} />}
            <ul className="console-list" data-testid="people">
                {shown.map((u) => (
                    <li key={u.user_id}>
                        <Avatar name={u.display_name || u.user_id} seed={u.user_id} />
                        <span className="console-who">
                            <b>{u.display_name || u.user_id}</b>
                            <span className="hf-hint">{u.user_id}</span>
                        </span>
                        <span className="console-tags">
                            <RoleTags of={u.roles} />
                            {u.disabled && <span className="hf-tag hf-tag--warn">{t("console.people.isLocked")}</span>}
                        </span>
                        <span className="hf-hint console-when">
                            {t("console.people.devices", { count: u.devices })}
                            <br />
                            {t("console.people.seen", { when: date(u.last_seen) })}
                        </span>
                        {acts && u.user_id !== me && (
                            <Button look="plain" icon="shield" onPress={() => setRanks(u.user_id)}>
                                {t("console.roles")}
                            </Button>
                        )}
                        {acts && u.user_id !== me && !u.disabled && (
                            <Button look="plain" icon="key" onPress={() => setLost(u)} data-testid="way-in-open">
                                {t(u.has_password ? "console.wayIn" : "console.wayIn.first")}
                            </Button>
                        )}
                        {acts && u.user_id !== me && (
                            <Button look="plain" icon={u.disabled ? "unlock" : "lock"} onPress={() => (u.disabled ? void lock(u, false).catch((e) => toast(messageOf(e))) : setAsked(u))}>
                                {u.disabled ? t("console.people.unlock") : t("console.people.lock")}
                            </Button>
                        )}
                    </li>
                ))}
            </ul>
            {ranked && <RolesDialog name={ranked.display_name || ranked.user_id} path="/api/console/users/role" who={{ user_id: ranked.user_id }} have={ranked.roles} choice={roles} onChange={reload} onClose={() => setRanks(undefined)} />}
            {lost && <WayIn user={lost} onClose={() => setLost(undefined)} />}
            {asked && (
                <Confirm title={t("console.people.lockTitle", { name: asked.display_name || asked.user_id })} yes={t("console.people.lock")} danger isOpen onYes={() => lock(asked, true)} onClose={() => setAsked(undefined)}>
                    {t("console.people.lockText")}
                </Confirm>
            )}
        </>
    );
}

const lifetimes = { hour: 3600, day: 86_400, week: 604_800, month: 2_592_000 } as const;

function InvitesPage({ acts }: { acts: boolean }) {
    const { value: invites, error, reload } = useLoaded<Invite[]>("/api/console/invites");
    const [making, setMaking] = useState(false);
    const [made, setMade] = useState<Invite>();
    const [asked, setAsked] = useState<Invite>();
    return (
        <>
            <div className="console-title">
                <h1>{t("console.invites.title")}</h1>
                {acts && (
                    <Button icon="add" onPress={() => setMaking(true)} data-testid="invite-new">
                        {t("console.invites.new")}
                    </Button>
                )}
            </div>
            <ErrorNote>{error}</ErrorNote>
            {made && (
                <section className="hf-card hf-card--wide" aria-label={t("console.invites.made")}>
                    <InviteCard invite={made} />
                    <p className="hf-hint">{t("console.invites.once")}</p>
                </section>
            )}
            {invites?.length === 0 && <Empty icon="link" title={t("console.invites.none")} />}
            <ul className="console-list" data-testid="invites">
                {(invites ?? []).map((i) => {
                    const over = i.revoked ? t("console.invites.revoked") : i.used >= i.uses ? t("console.invites.usedUp") : Date.parse(i.expires) < Date.now() ? t("console.invites.expired") : undefined;
                    return (
                        <li key={i.id}>
                            <span className="console-who">
                                <b>{i.localpart ? t("console.invites.for", { name: i.localpart }) : t("console.invites.forAnyone")}</b>
                                <span className="hf-hint">{t("console.invites.from", { by: i.by || t("console.invites.setup"), when: date(i.created) })}</span>
                            </span>
                            <span className="console-tags">
                                <RoleTags of={i.roles ?? []} />
                                {i.groups?.map((g) => (
                                    <span key={g} className="hf-tag">
                                        {g}
                                    </span>
                                ))}
                                {over ? <span className="hf-tag">{over}</span> : <span className="hf-tag hf-tag--ok">{t("console.invites.open")}</span>}
                            </span>
                            <span className="hf-hint console-when">
                                {t("console.invites.left", { count: Math.max(0, i.uses - i.used) })}
                                <br />
                                {t("setup.invite.until", { until: date(i.expires) })}
                            </span>
                            {!over && acts && (
                                <Button look="plain" icon="trash" onPress={() => setAsked(i)}>
                                    {t("console.invites.revoke")}
                                </Button>
                            )}
                        </li>
                    );
                })}
            </ul>
            {making && (
                <NewInvite
                    onClose={() => setMaking(false)}
                    onMade={(i) => {
                        setMade(i);
                        setMaking(false);
                        void reload();
                    }}
                />
            )}
            {asked && (
                <Confirm
                    title={t("console.invites.revokeTitle")}
                    yes={t("console.invites.revoke")}
                    danger
                    isOpen
                    onYes={async () => {
                        await api("DELETE", `/api/console/invites/${encodeURIComponent(asked.id)}`);
                        if (made?.id === asked.id) setMade(undefined);
                        await reload();
                    }}
                    onClose={() => setAsked(undefined)}
                >
                    {t("console.invites.revokeText")}
                </Confirm>
            )}
        </>
    );
}

function NewInvite({ onClose, onMade }: { onClose: () => void; onMade: (i: Invite) => void }) {
    const [uses, setUses] = useState("1");
    const [life, setLife] = useState<keyof typeof lifetimes>("week");
    const [localpart, setLocalpart] = useState("");
    const [gifts, setGifts] = useState<Gifts>({ roles: [], groups: [] });
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<ApiError>();
    const make = async (): Promise<void> => {
        setBusy(true);
        setError(undefined);
        try {
            onMade(await api<Invite>("POST", "/api/console/invites", { uses: parseInt(uses, 10) || 0, expires_in: lifetimes[life], localpart, ...gifts }));
        } catch (e) {
            setError(e instanceof ApiError ? e : new ApiError(0, "unknown", messageOf(e)));
            setBusy(false);
        }
    };
    const wrong = (field: string): string | undefined => (error?.field === field ? error.message : undefined);
    return (
        <Dialog title={t("console.invites.new")} isOpen onClose={onClose}>
            <form
                onSubmit={(e) => {
                    e.preventDefault();
                    void make();
                }}
            >
                <TextField label={t("console.invites.uses")} type="number" inputMode="numeric" value={uses} onChange={setUses} error={wrong("uses")} hint={t("console.invites.usesHint")} autoFocus />
                <label className="hf-field">
                    <span className="hf-label">{t("console.invites.life")}</span>
                    <select value={life} onChange={(e) => setLife(e.target.value as keyof typeof lifetimes)}>
                        {(Object.keys(lifetimes) as (keyof typeof lifetimes)[]).map((l) => (
                            <option key={l} value={l}>
                                {t(`console.invites.${l}`)}
                            </option>
                        ))}
                    </select>
                </label>
                <TextField label={t("console.invites.localpart")} value={localpart} onChange={setLocalpart} error={wrong("localpart")} hint={t("console.invites.localpartHint")} autoComplete="off" spellCheck="false" />
                <GiftFields value={gifts} onChange={setGifts} />
                <ErrorNote>{error && !["uses", "localpart"].includes(error.field ?? "") ? error.message : undefined}</ErrorNote>
                <div className="hf-actions">
                    <Button look="plain" onPress={onClose}>
                        {t("common.cancel")}
                    </Button>
                    <Button type="submit" isPending={busy} data-testid="invite-make">
                        {t("console.invites.make")}
                    </Button>
                </div>
            </form>
        </Dialog>
    );
}
