// Settings: the person, this device's look and notifications, all devices, security, about.
import { lazy, Suspense, useCallback, useEffect, useRef, useState } from "react";
import { type IMyDevice, MatrixError } from "matrix-js-sdk";
import { Avatar, Button, Confirm, Dialog, Empty, ErrorNote, Icon, IconButton, type IconName, RadioGroup, Spinner, Switch, TextField, toast } from "../design";
import { setTheme, type Theme, useTheme } from "../design/theme";
import { t } from "../i18n";
import { navigate } from "../router";
import { profileChanged, useChat, useRefresh, useSecurity } from "./context";
import { useIsAdmin } from "./dialogs";
import { brief, fullTime } from "./format";
import { useFace } from "./media";
import { PushError, type PushProblem, pushSupported, pushWanted, turnPushOff, turnPushOn } from "../push";
import { permission, soundOn, turnOn, turnSoundOn, wanted } from "./notify";
import type { SecurityDialog } from "./securityui";

// Its part of the SDK loads when somebody wants it.
const LinkDevice = lazy(() => import("./linkdevice"));

const sections = [
    { id: "profile", icon: "person" },
    { id: "look", icon: "sun" },
    { id: "devices", icon: "device" },
    { id: "security", icon: "shield" },
    { id: "about", icon: "info" },
] as const satisfies { id: string; icon: IconName }[];
export type Section = (typeof sections)[number]["id"];

export function Settings({ section, onSecurity }: { section: string; onSecurity: (d: SecurityDialog) => void }) {
    const current: Section = sections.find((s) => s.id === section)?.id ?? "profile";
    return (
        <section className="settings" aria-label={t("settings.title")} data-testid="settings-pane">
            <header className="room-head">
                <IconButton icon="back" label={t("room.back")} onPress={() => navigate("/")} data-testid="back" />
                <h1 className="room-title-text">{t("settings.title")}</h1>
            </header>
            <div className="settings-body">
                <nav className="settings-nav" aria-label={t("settings.sections")}>
                    {sections.map((s) => (
                        <button key={s.id} type="button" aria-current={s.id === current ? "page" : undefined} onClick={() => navigate(`/settings/${s.id}`, { replace: true })} data-testid={`settings-${s.id}`}>
                            <Icon name={s.icon} />
                            {t(`settings.section.${s.id}`)}
                        </button>
                    ))}
                </nav>
                <div className="settings-page">
                    <h2>{t(`settings.section.${current}`)}</h2>
                    {current === "profile" && <Profile />}
                    {current === "look" && <Look />}
                    {current === "devices" && <Devices onSecurity={onSecurity} />}
                    {current === "security" && <SecuritySection onSecurity={onSecurity} />}
                    {current === "about" && <About />}
                </div>
            </div>
        </section>
    );
}

/** Whether the server lets the person change their name and picture. Spec: cs#mset_displayname-capability */
function useMayChange(): [name: boolean, picture: boolean] {
    const { client } = useChat();
    const [may, setMay] = useState<[boolean, boolean]>([true, true]);
    useEffect(() => {
        client.fetchCapabilities().then(
            (caps) => setMay([caps["m.set_displayname"]?.enabled !== false, caps["m.set_avatar_url"]?.enabled !== false]),
            () => {}, // the change is refused then, if it is to be
        );
    }, [client]);
    return may;
}

function Profile() {
    const { client, signOut } = useChat();
    useRefresh(client, ["User.displayName", "User.avatarUrl"]);
    const userId = client.getSafeUserId();
    const [profile, setProfile] = useState<{ name: string; picture: string | undefined }>();
    const [name, setName] = useState("");
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<string>();
    const [leaving, setLeaving] = useState(false);
    const { phase } = useSecurity();
    const input = useRef<HTMLInputElement>(null);
    const load = useCallback(async () => {
        const p = await client.getProfileInfo(userId).catch(() => ({}) as { displayname?: string; avatar_url?: string });
        setProfile({ name: p.displayname ?? "", picture: p.avatar_url });
        setName(p.displayname ?? "");
    }, [client, userId]);
    useEffect(() => void load(), [load]);
    const face = useFace(client, profile?.picture, 72);
    // What follows a directory is changed there.
    const [mayName, mayPicture] = useMayChange();
    const run = async (what: () => Promise<unknown>) => {
        setBusy(true);
        setError(undefined);
        try {
            await what();
            dispatchEvent(new Event(profileChanged));
            await load();
            toast(t("settings.saved"));
        } catch {
            setError(t("settings.notSaved"));
        } finally {
            setBusy(false);
        }
    };
    return (
        <>
            <div className="profile">
                <Avatar size="l" name={profile?.name || userId} seed={userId} src={face} />
                <div className="profile-picture">
                    <input
                        ref={input}
                        type="file"
                        hidden
                        accept="image/png,image/jpeg,image/webp,image/gif"
                        data-testid="picture-input"
                        onChange={(e) => {
                            const file = e.target.files?.[0];
                            e.target.value = "";
                            if (file) void run(async () => client.setAvatarUrl((await client.uploadContent(file, { type: file.type })).content_uri));
                        }}
                    />
                    {mayPicture ? (
                        <Button look="plain" icon="image" isDisabled={busy} onPress={() => input.current?.click()}>
                            {t("settings.picture")}
                        </Button>
                    ) : (
                        <p className="hf-hint" data-testid="picture-kept">
                            {t("settings.kept")}
                        </p>
                    )}
                    {mayPicture && profile?.picture && (
                        <Button look="quiet" isDisabled={busy} onPress={() => void run(() => client.setAvatarUrl(""))}>
                            {t("settings.pictureRemove")}
                        </Button>
                    )}
                </div>
            </div>
            {mayName ? (
                <form
                    onSubmit={(e) => {
                        e.preventDefault();
                        void run(() => client.setDisplayName(name.trim()));
                    }}
                >
                    <TextField label={t("settings.name")} value={name} onChange={setName} maxLength={200} hint={t("settings.nameHint", { user: userId })} autoComplete="name" data-testid="display-name" />
                    <ErrorNote>{error}</ErrorNote>
                    <div className="hf-actions">
                        <Button type="submit" isPending={busy} isDisabled={!profile || name.trim() === profile.name || !name.trim()}>
                            {t("common.save")}
                        </Button>
                    </div>
                </form>
            ) : (
                <div className="hf-field" data-testid="name-kept">
                    <span className="hf-label">{t("settings.name")}</span>
                    <strong>{profile?.name}</strong>
                    <p className="hf-hint">{t("settings.kept")}</p>
                    <ErrorNote>{error}</ErrorNote>
                </div>
            )}
            <hr />
            <a className="hf-button hf-button--plain" href="/account" target="_blank" rel="noopener">
                {t("settings.account")}
            </a>
            <Button look="plain" icon="exit" onPress={() => setLeaving(true)} data-testid="sign-out">
                {t("settings.signOut")}
            </Button>
            <Confirm title={t("settings.signOutTitle")} yes={t("settings.signOut")} danger isOpen={leaving} onClose={() => setLeaving(false)} onYes={signOut}>
                <p>{t("settings.signOutText")}</p>
                {phase !== "ready" && <p className="hf-note hf-note--warn">{t("settings.signOutWarning")}</p>}
            </Confirm>
        </>
    );
}

function Look() {
    const theme = useTheme();
    const [, again] = useState(0);
    const state = permission();
    return (
        <>
            <RadioGroup<Theme>
                label={t("settings.theme")}
                value={theme}
                onChange={setTheme}
                data-testid="theme"
                choices={(["system", "light", "dark"] as const).map((value) => ({ value, label: t(`settings.theme.${value}`) }))}
            />
            <Switch
                isSelected={wanted()}
                isDisabled={state === "denied" || state === "unsupported"}
                onChange={(on) => void turnOn(on).then(() => again((n) => n + 1))}
                hint={state === "denied" ? t("settings.notifyDenied") : state === "unsupported" ? t("settings.notifyUnsupported") : t("settings.notifyHint")}
                data-testid="notifications"
            >
                {t("settings.notify")}
            </Switch>
            <PushSwitch />
            <MailSwitch />
            <Switch isSelected={soundOn()} onChange={(on) => (turnSoundOn(on), again((n) => n + 1))} hint={t("settings.soundHint")} data-testid="sound">
                {t("settings.sound")}
            </Switch>
        </>
    );
}

// The app_id of all pushers by e-mail. Spec: cs#post_matrixclientv3pushersset
const mailApp = "m.email";

function MailSwitch() {
    const { client } = useChat();
    // undefined: not known yet; address "": the account has none.
    const [state, setState] = useState<{ address: string; on: boolean }>();
    const [busy, setBusy] = useState(false);
    const [problem, setProblem] = useState<string>();
    const load = useCallback(async () => {
        const [{ threepids }, { pushers }] = await Promise.all([client.getThreePids(), client.getPushers()]);
        const pusher = pushers.find((p) => (p.kind as string) === "email");
        setState({ address: pusher?.pushkey ?? threepids.find((p) => (p.medium as string) === "email")?.address ?? "", on: !!pusher });
    }, [client]);
    useEffect(() => void load().catch(() => setState(undefined)), [load]);
    const turn = async (on: boolean, address: string): Promise<void> => {
        setBusy(true);
        setProblem(undefined);
        try {
            // Switched off, the kind is null: that ends a pusher.
            const kind = (on ? "email" : null) as unknown as string;
            await client.setPusher({ kind, app_id: mailApp, pushkey: address, app_display_name: t("settings.mail"), device_display_name: address, lang: document.documentElement.lang || "en", data: {}, append: true });
            await load();
        } catch (e) {
            setProblem(e instanceof MatrixError && e.data.error ? e.data.error : t("settings.notSaved"));
        }
        setBusy(false);
    };
    // Where no mail is sent nobody has an address, and the account page tells who could add one.
    if (!state?.address) return null;
    return (
        <>
            <Switch
                isSelected={state.on}
                isDisabled={busy}
                onChange={(on) => void turn(on, state.address)}
                hint={t("settings.mailHint", { address: state.address })}
                data-testid="mail-notifications"
            >
                {t("settings.mail")}
            </Switch>
            <ErrorNote>{problem}</ErrorNote>
        </>
    );
}

function PushSwitch() {
    const { client } = useChat();
    const [on, setOn] = useState(pushWanted);
    const [busy, setBusy] = useState(false);
    const [problem, setProblem] = useState<PushProblem>();
    const turn = async (to: boolean): Promise<void> => {
        setBusy(true);
        setProblem(undefined);
        try {
            await (to ? turnPushOn(client) : turnPushOff(client));
        } catch (e) {
            console.warn("Web Push", e);
            setProblem(e instanceof PushError ? e.kind : "server");
        }
        setOn(pushWanted());
        setBusy(false);
    };
    return (
        <>
            <Switch isSelected={on} isDisabled={busy || !pushSupported()} onChange={(to) => void turn(to)} hint={pushSupported() ? t("push.hint") : t("push.unsupported")} data-testid="web-push">
                {t("push.switch")}
            </Switch>
            <ErrorNote>{problem && t(`push.problem.${problem}`)}</ErrorNote>
        </>
    );
}

interface Device extends IMyDevice {
    confirmed: boolean;
    current: boolean;
}

function Devices({ onSecurity }: { onSecurity: (d: SecurityDialog) => void }) {
    const { client } = useChat();
    const [linking, setLinking] = useState(false);
    const { phase } = useSecurity();
    const [devices, setDevices] = useState<Device[]>();
    const [failed, setFailed] = useState(false);
    // Signing other devices out needs the password, so it is done on the account page.
    const [account, setAccount] = useState<string>();
    const load = useCallback(async () => {
        setFailed(false);
        void client.getAuthMetadata().then(
            (m) => setAccount(m.account_management_uri),
            () => undefined,
        );
        try {
            const { devices: all } = await client.getDevices();
            const me = client.getSafeUserId();
            const crypto = client.getCrypto();
            const list = await Promise.all(
                all.map(async (d) => ({ ...d, current: d.device_id === client.getDeviceId(), confirmed: !!(await crypto?.getDeviceVerificationStatus(me, d.device_id))?.crossSigningVerified })),
            );
            setDevices(list.sort((a, b) => Number(b.current) - Number(a.current) || (b.last_seen_ts ?? 0) - (a.last_seen_ts ?? 0)));
        } catch {
            setFailed(true);
        }
    }, [client]);
    useEffect(() => {
        void load();
        // Back from the account page, the list may be shorter.
        const again = (): void => void load();
        window.addEventListener("focus", again);
        return () => window.removeEventListener("focus", again);
    }, [load, phase]);
    if (failed)
        return (
            <Empty icon="wifiOff" title={t("settings.devicesFailed")}>
                <Button look="plain" onPress={() => void load()}>
                    {t("common.retry")}
                </Button>
            </Empty>
        );
    if (!devices) return <Spinner />;
    return (
        <>
            <div className="link-device">
                <p className="hf-muted">{t("qr.link.text")}</p>
                <Button icon="link" onPress={() => setLinking(true)} data-testid="link-device">
                    {t("qr.link.open")}
                </Button>
            </div>
            <p className="hf-muted">{t("settings.devicesText")}</p>
            <ul className="devices" data-testid="devices">
                {devices.map((d) => (
                    <DeviceRow key={d.device_id} device={d} account={account} onChange={load} />
                ))}
            </ul>
            {linking && (
                <Suspense fallback={null}>
                    <LinkDevice
                        onClose={() => setLinking(false)}
                        onConfirm={() => {
                            setLinking(false);
                            onSecurity("confirm");
                        }}
                        onLinked={() => void load()}
                    />
                </Suspense>
            )}
        </>
    );
}

function DeviceRow({ device, account, onChange }: { device: Device; account: string | undefined; onChange: () => Promise<void> }) {
    const { client, signOut } = useChat();
    const [editing, setEditing] = useState(false);
    const [name, setName] = useState(device.display_name ?? "");
    const [leaving, setLeaving] = useState(false);
    return (
        <li className="device" data-testid="device">
            <Icon name="device" />
            <div className="device-main">
                {editing ? (
                    <form
                        className="device-edit"
                        onSubmit={(e) => {
                            e.preventDefault();
                            client.setDeviceDetails(device.device_id, { display_name: name.trim() }).then(
                                () => (setEditing(false), void onChange()),
                                () => toast(t("settings.notSaved")),
                            );
                        }}
                    >
                        <TextField label={t("settings.deviceName")} labelHidden value={name} onChange={setName} autoFocus maxLength={100} />
                        <Button type="submit">{t("common.save")}</Button>
                    </form>
                ) : (
                    <strong>{device.display_name || device.device_id}</strong>
                )}
                <span className="hf-hint">
                    {device.current ? t("settings.thisDevice") : device.last_seen_ts ? <time title={fullTime(device.last_seen_ts)}>{t("settings.lastSeen", { when: brief(device.last_seen_ts) })}</time> : t("settings.neverSeen")}
                    {device.last_seen_ip ? ` · ${device.last_seen_ip}` : ""}
                    {` · ${device.device_id}`}
                </span>
                <span className={`hf-tag ${device.confirmed ? "hf-tag--ok" : "hf-tag--warn"}`}>
                    <Icon name={device.confirmed ? "check" : "alert"} />
                    {device.confirmed ? t("settings.confirmed") : t("settings.unconfirmed")}
                </span>
            </div>
            {!editing && <IconButton icon="edit" label={t("settings.deviceName")} onPress={() => setEditing(true)} />}
            <IconButton icon="exit" label={t("settings.deviceSignOut", { name: device.display_name || device.device_id })} onPress={() => setLeaving(true)} data-testid="device-sign-out" />
            {device.current ? (
                <Confirm title={t("settings.signOutTitle")} yes={t("settings.signOut")} danger isOpen={leaving} onClose={() => setLeaving(false)} onYes={signOut}>
                    {t("settings.signOutText")}
                </Confirm>
            ) : (
                <Dialog title={t("settings.deviceSignOutTitle", { name: device.display_name || device.device_id })} isOpen={leaving} onClose={() => setLeaving(false)}>
                    <p>{t("settings.deviceSignOutText")}</p>
                    <div className="hf-actions">
                        <Button look="plain" onPress={() => setLeaving(false)}>
                            {t("common.cancel")}
                        </Button>
                        <a className="hf-button hf-button--danger" href={deletePage(account, device.device_id)} target="_blank" rel="noopener" onClick={() => setLeaving(false)} data-testid="device-sign-out-page">
                            {t("settings.deviceSignOutGo")}
                        </a>
                    </div>
                </Dialog>
            )}
        </li>
    );
}

// deletePage is the place on the account page where one device is signed out (MSC4191).
function deletePage(account: string | undefined, deviceId: string): string {
    const url = new URL(account ?? "/account", location.origin);
    url.searchParams.set("action", "org.matrix.device_delete");
    url.searchParams.set("device_id", deviceId);
    return url.href;
}

function SecuritySection({ onSecurity }: { onSecurity: (d: SecurityDialog) => void }) {
    const { client } = useChat();
    const { phase, hasRecoveryKey } = useSecurity();
    const [backup, setBackup] = useState<string | null>();
    useEffect(() => {
        let gone = false;
        void client
            .getCrypto()
            ?.getActiveSessionBackupVersion()
            .then((v) => gone || setBackup(v));
        return () => {
            gone = true;
        };
    }, [client, phase]);
    return (
        <>
            <Line ok={phase === "ready" || phase === "saveKey"} text={phase === "confirm" ? t("security.state.unconfirmed") : t("security.state.confirmed")}>
                {phase === "confirm" && (
                    <Button onPress={() => onSecurity("confirm")} data-testid="security-confirm">
                        {t("security.confirm.do")}
                    </Button>
                )}
            </Line>
            <Line ok={!!backup} text={backup ? t("security.state.backup") : t("security.state.noBackup")} />
            <Line ok={hasRecoveryKey} text={hasRecoveryKey ? t("security.state.key") : t("security.state.noKey")}>
                {phase !== "confirm" && phase !== "checking" && (
                    <Button look={hasRecoveryKey ? "plain" : "main"} icon="key" onPress={() => onSecurity("save")} data-testid="security-save">
                        {hasRecoveryKey ? t("security.save.renew") : t("security.save.do")}
                    </Button>
                )}
            </Line>
            <hr />
            <p className="hf-muted">{t("security.reset.about")}</p>
            <div>
                <Button look="plain" onPress={() => onSecurity("reset")} data-testid="security-reset">
                    {t("security.reset.do")}
                </Button>
            </div>
        </>
    );
}

function Line({ ok, text, children }: { ok: boolean; text: string; children?: React.ReactNode }) {
    return (
        <div className={`security-line${ok ? " security-line--ok" : ""}`}>
            <Icon name={ok ? "check" : "alert"} />
            <span>{text}</span>
            {children}
        </div>
    );
}

function About() {
    const { client } = useChat();
    const admin = useIsAdmin();
    return (
        <>
            <dl className="facts">
                <dt>{t("about.user")}</dt>
                <dd>{client.getUserId()}</dd>
                <dt>{t("about.server")}</dt>
                <dd>{client.getDomain()}</dd>
                <dt>{t("about.device")}</dt>
                <dd>{client.getDeviceId()}</dd>
                <dt>{t("about.crypto")}</dt>
                <dd>{client.getCrypto()?.getVersion()}</dd>
            </dl>
            <p className="hf-muted">{t("about.licence")}</p>
            {admin && (
                <a className="hf-button hf-button--plain" href="/console">
                    {t("about.console")}
                </a>
            )}
        </>
    );
}
