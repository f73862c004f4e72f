// The console's page of the machine that the appliance has to itself: versions, disk, network, clock, power.
import { useEffect, useRef, useState, type ReactNode } from "react";
import { Banner, Button, Confirm, Dialog, Empty, ErrorNote, Progress, Switch, TextField, toast } from "../design";
import { t } from "../i18n";
import { ApiError, type ClockState, type DiskState, api, messageOf, upload } from "../setup/api";
import { Recovery } from "../setup/recovery";
import { bytes, date, duration, useLoaded } from "./load";
import { type NetworkConfig, type NetworkState, NetworkSection } from "./network";
import "./machine.css";

interface Update {
    version: string;
    created?: string;
    notes?: string;
    state: "waiting" | "failed" | "kept";
    bytes: number;
}

interface Stick {
    device: string;
    file: string;
    version: string;
    created: string;
    notes?: string;
}

interface Machine {
    disk: DiskState;
    versions: { running: string; arch: string; signed: string; others: Update[] };
    share_updates: boolean;
    network: NetworkConfig;
    network_state: NetworkState;
    clock: ClockState;
    console_password: boolean;
}

const base = "/api/console/machine";

export function MachinePage() {
    const { value: m, error, reload } = useLoaded<Machine>(base, 15);
    return (
        <>
            <h1>{t("console.machine.title")}</h1>
            <ErrorNote>{error}</ErrorNote>
            {m && (
                <>
                    <Versions m={m} reload={reload} />
                    <Disk disk={m.disk} reload={reload} />
                    <NetworkSection config={m.network} state={m.network_state} now={m.clock.now} reload={reload} />
                    <Clock clock={m.clock} reload={reload} />
                    <Screen set={m.console_password} reload={reload} />
                    <Power waiting={m.versions.others.find((u) => u.state === "waiting")?.version} typed={m.disk.passphrase && !m.disk.tpm} />
                </>
            )}
        </>
    );
}

/** Section is one card of the page. */
export function Section({ title, children, testId }: { title: string; children: ReactNode; testId: string }) {
    return (
        <section className="hf-card hf-card--wide machine-section" aria-labelledby={`machine-${testId}`} data-testid={`machine-${testId}`}>
            <h2 id={`machine-${testId}`}>{title}</h2>
            {children}
        </section>
    );
}

function Versions({ m, reload }: { m: Machine; reload: () => Promise<void> }) {
    const input = useRef<HTMLInputElement>(null);
    const [part, setPart] = useState<number>();
    const [trouble, setTrouble] = useState<string>();
    const [asked, setAsked] = useState<{ why: string; go: () => Promise<unknown> }>();
    const [from, setFrom] = useState("");
    const [sticks, setSticks] = useState<Stick[]>();
    // Which way is being gone: its button keeps the focus, the others wait.
    const [busy, setBusy] = useState<string>();

    // An older version is taken only after the appliance has said what that means.
    const stage = async (way: string, go: (downgrade: boolean) => Promise<Update>): Promise<void> => {
        setTrouble(undefined);
        setBusy(way);
        const done = (u: Update): void => {
            toast(t("console.machine.staged", { version: u.version }));
            setSticks(undefined);
            setFrom("");
        };
        try {
            done(await go(false));
        } catch (e) {
            if (e instanceof ApiError && e.code === "downgrade") setAsked({ why: e.message, go: () => go(true).then(done) });
            else setTrouble(messageOf(e));
        } finally {
            setBusy(undefined);
            setPart(undefined);
            await reload();
        }
    };
    const send = (file: File | undefined): void => {
        if (file) void stage("file", (downgrade) => upload<Update>(`${base}/update${downgrade ? "?downgrade=yes" : ""}`, file, setPart));
    };
    const look = async (): Promise<void> => {
        setTrouble(undefined);
        setSticks(undefined);
        setBusy("look");
        try {
            setSticks(await api<Stick[]>("GET", `${base}/sticks`));
        } catch (e) {
            setTrouble(messageOf(e));
        } finally {
            setBusy(undefined);
        }
    };
    const others = (way: string): boolean => busy !== undefined && busy !== way;
    return (
        <Section title={t("console.machine.versions")} testId="versions">
            <dl className="machine-facts">
                <div>
                    <dt>{t("console.machine.running")}</dt>
                    <dd data-testid="version-running">
                        {m.versions.running} <span className="hf-hint">{m.versions.arch}</span>
                    </dd>
                </div>
                <div>
                    <dt>{t("console.machine.signed")}</dt>
                    <dd className="setup-mono">{m.versions.signed}</dd>
                </div>
            </dl>
            {m.versions.others.length > 0 && (
                <ul className="console-list">
                    {m.versions.others.map((u) => (
                        <li key={u.version}>
                            <span className="console-who">
                                <b>{u.version}</b>
                                <span className="hf-hint">{u.created ? t("console.machine.made", { when: date(u.created) }) : bytes(u.bytes)}</span>
                                {u.notes && <span className="machine-notes">{u.notes}</span>}
                            </span>
                            <span className={`hf-tag ${u.state === "failed" ? "hf-tag--warn" : u.state === "waiting" ? "hf-tag--ok" : ""}`}>{t(`console.machine.state.${u.state}`)}</span>
                        </li>
                    ))}
                </ul>
            )}
            <ErrorNote>{trouble}</ErrorNote>
            {part !== undefined && <Progress value={part} label={t("console.machine.sending")} />}
            <div className="hf-actions machine-ways">
                <Button icon="file" isPending={busy === "file"} isDisabled={others("file")} onPress={() => input.current?.click()}>
                    {t("console.machine.upload")}
                </Button>
                <Button look="plain" icon="search" isPending={busy === "look"} isDisabled={others("look")} onPress={() => void look()} data-testid="update-sticks">
                    {t("console.machine.stick")}
                </Button>
                <input
                    ref={input}
                    type="file"
                    hidden
                    accept=".hfu"
                    data-testid="update-file"
                    onChange={(e) => {
                        send(e.target.files?.[0]);
                        e.target.value = "";
                    }}
                />
            </div>
            {sticks && (
                <ul className="console-list" aria-label={t("console.machine.sticks")}>
                    {sticks.map((s) => (
                        <li key={`${s.device}/${s.file}`}>
                            <span className="console-who">
                                <b>{s.version}</b>
                                <span className="hf-hint">{t("console.machine.onStick", { file: s.file, device: s.device, when: date(s.created) })}</span>
                                {s.notes && <span className="machine-notes">{s.notes}</span>}
                            </span>
                            <Button isPending={busy === s.file} isDisabled={others(s.file)} onPress={() => void stage(s.file, (downgrade) => api<Update>("POST", `${base}/sticks`, { device: s.device, file: s.file, downgrade }))}>
                                {t("console.machine.use")}
                            </Button>
                        </li>
                    ))}
                </ul>
            )}
            <form
                className="machine-row"
                noValidate
                onSubmit={(e) => {
                    e.preventDefault();
                    if (from.trim() && !busy) void stage("fetch", (downgrade) => api<Update>("POST", `${base}/update/fetch`, { from, downgrade }));
                }}
            >
                <TextField label={t("console.machine.from")} hint={t("console.machine.fromHint")} value={from} onChange={setFrom} placeholder={"https://10.0.0.5"} inputMode="url" autoComplete="off" spellCheck="false" data-testid="update-from" />
                <Button type="submit" look="plain" isPending={busy === "fetch"} isDisabled={others("fetch") || !from.trim()}>
                    {t("console.machine.fetch")}
                </Button>
            </form>
            <Switch
                isSelected={m.share_updates}
                hint={t("console.machine.shareHint")}
                onChange={(share) =>
                    void api("PUT", `${base}/update/share`, { share })
                        .then(reload)
                        .catch((e) => toast(messageOf(e)))
                }
                data-testid="update-share"
            >
                {t("console.machine.share")}
            </Switch>
            {asked && (
                <Confirm title={t("console.machine.downgrade")} yes={t("console.machine.downgradeYes")} danger isOpen onYes={() => asked.go().then(reload)} onClose={() => setAsked(undefined)}>
                    {asked.why}
                </Confirm>
            )}
        </Section>
    );
}

function Disk({ disk, reload }: { disk: DiskState; reload: () => Promise<void> }) {
    const [open, setOpen] = useState(false);
    const keys = [disk.tpm && t("console.machine.byTPM"), disk.passphrase && t("console.machine.byPassphrase")].filter(Boolean);
    return (
        <Section title={t("console.machine.disk")} testId="disk">
            {disk.warning && (
                <Banner icon="alert" kind="warn" role="status">
                    {disk.warning}
                </Banner>
            )}
            <dl className="machine-facts">
                <div>
                    <dt>{t("console.machine.device")}</dt>
                    <dd>
                        <span className="setup-mono">{disk.device}</span> <span className="hf-hint">{bytes(disk.bytes)}</span>
                    </dd>
                </div>
                <div>
                    <dt>{t("console.machine.protection")}</dt>
                    <dd data-testid="disk-protection">{disk.encrypted ? t("console.machine.encrypted") : t("console.machine.open")}</dd>
                </div>
                {keys.length > 0 && (
                    <div>
                        <dt>{t("console.machine.openedBy")}</dt>
                        <dd>{keys.join(", ")}</dd>
                    </div>
                )}
            </dl>
            <div className="hf-actions">
                <Button icon="key" look={disk.passphrase ? "plain" : "main"} onPress={() => setOpen(true)} data-testid="disk-recovery">
                    {disk.passphrase ? t("console.machine.newPassphrase") : t("console.machine.protect")}
                </Button>
            </div>
            {open && (
                <Dialog title={t("recovery.title")} isOpen onClose={() => setOpen(false)}>
                    <Recovery
                        base={`${base}/recovery`}
                        onDone={() => {
                            setOpen(false);
                            toast(t("recovery.done"));
                            void reload();
                        }}
                    />
                </Dialog>
            )}
        </Section>
    );
}

function Clock({ clock, reload }: { clock: ClockState; reload: () => Promise<void> }) {
    // What the two clocks say is compared when the answer arrives, not when the page is drawn again.
    const [skew, setSkew] = useState(0);
    useEffect(() => setSkew(Date.parse(clock.now) - Date.now()), [clock.now]);
    const [servers, setServers] = useState(clock.servers.join(" "));
    const [trouble, setTrouble] = useState<string>();
    const off = Math.abs(skew) >= 60_000;
    const attempt = async (f: () => Promise<unknown>): Promise<void> => {
        setTrouble(undefined);
        try {
            await f();
            await reload();
        } catch (e) {
            setTrouble(messageOf(e));
        }
    };
    return (
        <Section title={t("console.machine.clock")} testId="clock">
            {clock.alarm && (
                <Banner icon="alert" kind="warn" role="status">
                    {clock.alarm}
                </Banner>
            )}
            <dl className="machine-facts">
                <div>
                    <dt>{t("console.machine.time")}</dt>
                    <dd>{date(clock.now)}</dd>
                </div>
                <div>
                    <dt>{t("console.machine.source")}</dt>
                    <dd>
                        {t(`console.machine.source.${clock.source}`)} {clock.synced && <span className="hf-hint">{date(clock.synced)}</span>}
                    </dd>
                </div>
                <div>
                    <dt>{t("console.machine.here")}</dt>
                    <dd>{off ? t("console.machine.differs", { by: duration(Math.abs(skew)) }) : t("console.machine.agrees")}</dd>
                </div>
            </dl>
            {off && (
                <div className="hf-actions">
                    <Button onPress={() => void attempt(() => api("POST", `${base}/clock`, { now: new Date().toISOString() }))} data-testid="clock-set">
                        {t("console.machine.setClock")}
                    </Button>
                </div>
            )}
            <form
                className="machine-row"
                noValidate
                onSubmit={(e) => {
                    e.preventDefault();
                    void attempt(() => api("PUT", `${base}/clock/servers`, { servers: servers.split(/[\s,]+/).filter(Boolean) }));
                }}
            >
                <TextField label={t("console.machine.servers")} hint={t("console.machine.serversHint")} value={servers} onChange={setServers} autoComplete="off" spellCheck="false" />
                <Button type="submit" look="plain" isDisabled={servers.trim() === clock.servers.join(" ")}>
                    {t("console.machine.save")}
                </Button>
            </form>
            <ErrorNote>{trouble}</ErrorNote>
        </Section>
    );
}

function Screen({ set, reload }: { set: boolean; reload: () => Promise<void> }) {
    const [password, setPassword] = useState("");
    const [trouble, setTrouble] = useState<string>();
    const save = async (value: string): Promise<void> => {
        setTrouble(undefined);
        try {
            await api("PUT", `${base}/password`, { password: value });
            setPassword("");
            toast(value ? t("console.machine.passwordSaved") : t("console.machine.passwordGone"));
            await reload();
        } catch (e) {
            setTrouble(messageOf(e));
        }
    };
    return (
        <Section title={t("console.machine.screen")} testId="screen">
            <p>{set ? t("console.machine.screenSet") : t("console.machine.screenOpen")}</p>
            <form
                className="machine-row"
                noValidate
                onSubmit={(e) => {
                    e.preventDefault();
                    if (password) void save(password);
                }}
            >
                <TextField label={t("console.machine.password")} type="password" value={password} onChange={setPassword} error={trouble} autoComplete="new-password" maxLength={500} data-testid="console-password" />
                <Button type="submit" look="plain" isDisabled={!password}>
                    {t("console.machine.save")}
                </Button>
                {set && (
                    <Button look="plain" onPress={() => void save("")}>
                        {t("console.machine.passwordRemove")}
                    </Button>
                )}
            </form>
        </Section>
    );
}

/** Power restarts and stops the machine; after a restart it waits until the appliance answers again. */
function Power({ waiting, typed }: { waiting: string | undefined; typed: boolean }) {
    const [asked, setAsked] = useState<"restart" | "shutdown">();
    const [away, setAway] = useState<"restart" | "shutdown">();
    const [slow, setSlow] = useState(false);
    useEffect(() => {
        if (away !== "restart") return;
        let gone = false;
        const begun = Date.now();
        const timer = setInterval(() => {
            setSlow(Date.now() - begun > 180_000);
            fetch("/api/setup", { cache: "no-store" }).then(
                (r) => {
                    if (gone && r.ok) location.reload();
                },
                () => {
                    gone = true;
                },
            );
        }, 2000);
        return () => clearInterval(timer);
    }, [away]);
    if (away)
        return (
            <Dialog title={away === "restart" ? t("console.machine.restarting") : t("console.machine.stopped")} isOpen firm onClose={() => undefined}>
                <Empty icon={away === "restart" ? "retry" : "info"} title={away === "restart" ? t("console.machine.wait") : t("console.machine.off")}>
                    {away === "restart" && typed ? (
                        <p>
                            {t("console.machine.typed")} <a href="/">{location.origin}</a>
                        </p>
                    ) : (
                        slow && <p>{t("console.machine.slow")}</p>
                    )}
                </Empty>
            </Dialog>
        );
    return (
        <Section title={t("console.machine.power")} testId="power">
            {waiting && (
                <Banner icon="info" kind="accent" role="status">
                    {t("console.machine.waiting", { version: waiting })}
                </Banner>
            )}
            <div className="hf-actions">
                <Button look={waiting ? "main" : "plain"} icon="retry" onPress={() => setAsked("restart")} data-testid="restart">
                    {t("console.machine.restart")}
                </Button>
                <Button look="danger" onPress={() => setAsked("shutdown")} data-testid="shutdown">
                    {t("console.machine.shutdown")}
                </Button>
            </div>
            {asked && (
                <Confirm
                    title={asked === "restart" ? t("console.machine.restartTitle") : t("console.machine.shutdownTitle")}
                    yes={asked === "restart" ? t("console.machine.restart") : t("console.machine.shutdown")}
                    danger
                    isOpen
                    onYes={async () => {
                        await api("POST", `${base}/${asked}`, {});
                        setAway(asked);
                    }}
                    onClose={() => setAsked(undefined)}
                >
                    {asked === "restart" ? t("console.machine.restartText") : t("console.machine.shutdownText")} {typed && t("console.machine.atHand")}
                </Confirm>
            )}
        </Section>
    );
}
