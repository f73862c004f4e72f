// The calls that run: who is in them, how they are connected, what goes over the line. It refreshes by itself.
import { useState } from "react";
import { Banner, Button, Confirm, Empty, ErrorNote, Icon, toast } from "../design";
import { locale, t } from "../i18n";
import { api, messageOf } from "../setup/api";
import { BrowserTest } from "./browsertest";
import { bytes, date, duration, number, useLoaded } from "./load";
import "./calls.css";

interface Link {
    bits: number;
    loss: number;
    jitter_ms: number;
}

interface Track {
    kind: "audio" | "video";
    source: string;
    codec?: string;
    muted?: boolean;
    layers?: { width?: number; height?: number; bits: number }[];
}

interface Person {
    id: string;
    user_id?: string;
    name?: string;
    device_id?: string;
    device_name?: string;
    client?: string;
    since: string;
    path: "udp" | "tcp" | "turn" | "https" | "";
    family: "ipv4" | "ipv6" | "";
    quality: string;
    rtt_ms: number;
    up: Link;
    down: Link;
    tracks: Track[];
    received: number[] | null;
}

interface Call {
    id: string;
    room_id?: string;
    name?: string;
    began: string;
    participants: number;
    node?: string;
    up_bits: number;
    down_bits: number;
    loss: number;
    rtt_ms: number;
}

interface Report {
    enabled: boolean;
    now: string;
    total: number;
    participants: number;
    calls: Call[];
    relay: { running: boolean; since?: string; restarts: number; reason?: string; memory_bytes: number; udp_port: number; tcp_port: number; turn_port: number; addresses: string[] | null };
    limits: { calls: number; participants: number };
    turn: { relayed: number; connections: number; accepted: number; refused: number; expired: number };
}

const page = 25; // as the appliance has it
const every = 3; // seconds

function bits(n: number): string {
    if (n >= 1e6) return t("console.calls.mbit", { n: new Intl.NumberFormat(locale, { maximumFractionDigits: 1 }).format(n / 1e6) });
    return t("console.calls.kbit", { n: new Intl.NumberFormat(locale, { maximumFractionDigits: 0 }).format(n / 1e3) });
}
const percent = (part: number): string => new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: part < 0.1 ? 1 : 0 }).format(part);
const millis = (n: number): string => t("console.calls.ms", { n: new Intl.NumberFormat(locale, { maximumFractionDigits: n < 10 ? 1 : 0 }).format(n) });

/** A loss that people notice, and one that hurts. */
const lossClass = (part: number): string => (part >= 0.1 ? "calls-bad" : part >= 0.03 ? "calls-poor" : "");
const rttClass = (ms: number): string => (ms >= 400 ? "calls-bad" : ms >= 200 ? "calls-poor" : "");

export function CallsPage({ acts, tests }: { acts: boolean; tests: boolean }) {
    const [from, setFrom] = useState(0);
    const [open, setOpen] = useState<string>();
    const [ending, setEnding] = useState<Call>();
    const { value: r, error, reload } = useLoaded<Report>(`/api/console/calls?from=${from}`, every);
    // The last page may have gone while it was looked at.
    if (r && r.total > 0 && r.calls.length === 0 && from > 0) setFrom(Math.max(0, Math.floor((r.total - 1) / page) * page));
    const now = r ? Date.parse(r.now) : 0;
    return (
        <>
            <h1>{t("console.calls.title")}</h1>
            <ErrorNote>{error}</ErrorNote>
            {r && !r.enabled && (
                <Empty icon="phoneOff" title={t("console.calls.off")}>
                    <p>{t("console.calls.offText")}</p>
                </Empty>
            )}
            {r?.enabled && !r.relay.running && (
                <Banner icon="alert" kind="warn" role="alert">
                    {t("console.calls.down", { reason: r.relay.reason ?? "" })}
                </Banner>
            )}
            {r?.enabled && (
                <>
                    <dl className="console-numbers" data-testid="calls-numbers">
                        <Figure label={t("console.calls.running")} value={number(r.total)} note={r.limits.calls ? t("console.calls.most", { count: r.limits.calls }) : undefined} />
                        <Figure label={t("console.calls.people")} value={number(r.participants)} note={r.limits.participants ? t("console.calls.mostEach", { count: r.limits.participants }) : undefined} />
                        <Figure label={t("console.calls.relayed")} value={number(r.turn.relayed)} note={t("console.calls.connections", { count: r.turn.connections })} />
                        <Figure label={t("console.calls.restarts")} value={number(r.relay.restarts)} />
                    </dl>
                    {r.total === 0 && r.relay.running && (
                        <Empty icon="phone" title={t("console.calls.none")}>
                            <p>{t("console.calls.noneText")}</p>
                        </Empty>
                    )}
                    <ul className="console-list calls-list" data-testid="calls">
                        {r.calls.map((c) => (
                            <li key={c.id} data-testid="call-item">
                                <button type="button" className="calls-head" aria-expanded={open === c.id} onClick={() => setOpen(open === c.id ? undefined : c.id)}>
                                    <Icon name="down" />
                                    <span className="console-who">
                                        <b>{c.name || t("console.calls.unnamed")}</b>
                                        <span className="hf-hint">{t("console.calls.began", { when: date(c.began), since: duration(now - Date.parse(c.began)) })}</span>
                                        {c.node && <span className="hf-hint" data-testid="call-node">{t("console.calls.node", { node: c.node })}</span>}
                                    </span>
                                    <span className="calls-figures">
                                        <span>{t("console.status.participants", { count: c.participants })}</span>
                                        <span>{t("console.calls.up", { rate: bits(c.up_bits) })}</span>
                                        <span>{t("console.calls.down2", { rate: bits(c.down_bits) })}</span>
                                        <span className={lossClass(c.loss)}>{t("console.calls.worstLoss", { loss: percent(c.loss) })}</span>
                                        <span className={rttClass(c.rtt_ms)}>{c.rtt_ms > 0 ? t("console.calls.worstRTT", { rtt: millis(c.rtt_ms) }) : ""}</span>
                                    </span>
                                </button>
                                {acts && (
                                    <Button look="plain" icon="phoneOff" onPress={() => setEnding(c)} data-testid="call-end">
                                        {t("console.calls.end")}
                                    </Button>
                                )}
                                {open === c.id && <People id={c.id} acts={acts} reload={reload} />}
                            </li>
                        ))}
                    </ul>
                    {r.total > page && (
                        <nav className="hf-actions calls-pages" aria-label={t("console.calls.pages")}>
                            <Button look="plain" isDisabled={from === 0} onPress={() => setFrom(Math.max(0, from - page))}>
                                {t("console.calls.before")}
                            </Button>
                            <span className="hf-hint" role="status">
                                {t("console.calls.shown", { from: number(from + 1), to: number(from + r.calls.length), count: r.total })}
                            </span>
                            <Button look="plain" isDisabled={from + page >= r.total} onPress={() => setFrom(from + page)} data-testid="calls-next">
                                {t("console.calls.after")}
                            </Button>
                        </nav>
                    )}
                    <Relay r={r} now={now} />
                    {tests && r.relay.running && <Test />}
                    {tests && r.relay.running && <BrowserTest path="/api/console/calls/test/browser" />}
                </>
            )}
            {ending && (
                <Confirm
                    title={t("console.calls.endTitle", { name: ending.name || t("console.calls.unnamed") })}
                    yes={t("console.calls.end")}
                    danger
                    isOpen
                    onYes={async () => {
                        await api("POST", "/api/console/calls/end", { id: ending.id });
                        toast(t("console.calls.ended"));
                        await reload();
                    }}
                    onClose={() => setEnding(undefined)}
                >
                    {t("console.calls.endText", { count: ending.participants })}
                </Confirm>
            )}
        </>
    );
}

function Figure({ label, value, note }: { label: string; value: string; note?: string | undefined }) {
    return (
        <div className="console-number">
            <dt>{label}</dt>
            <dd>
                {value}
                {note && <span className="hf-hint">{note}</span>}
            </dd>
        </div>
    );
}

const shownAtFirst = 50;

function People({ id, acts, reload }: { id: string; acts: boolean; reload: () => Promise<void> }) {
    const { value: c, error, reload: again } = useLoaded<Call & { people: Person[] }>(`/api/console/calls/one?id=${encodeURIComponent(id)}`, every);
    const [all, setAll] = useState(false);
    const [asked, setAsked] = useState<Person>();
    const people = c?.people ?? [];
    const name = (p: Person): string => p.name || p.user_id || t("console.calls.somebody");
    return (
        <div className="calls-people">
            <ErrorNote>{error}</ErrorNote>
            <ul data-testid="call-people">
                {people.slice(0, all ? undefined : shownAtFirst).map((p) => (
                    <li key={p.id} data-testid="call-person">
                        <div className="calls-person">
                            <span className="console-who">
                                <b>{name(p)}</b>
                                <span className="hf-hint">{[p.user_id, p.device_name || p.device_id, p.client].filter(Boolean).join(" · ")}</span>
                                <span className="hf-hint">{t("console.calls.since", { when: date(p.since) })}</span>
                            </span>
                            <span className="console-tags">
                                <span className={`hf-tag ${p.path === "udp" ? "hf-tag--ok" : p.path === "" ? "hf-tag--warn" : ""}`}>{p.path === "" ? t("console.calls.path.none") : `${t(`console.calls.path.${p.path}`)}${p.family ? ` ${p.family === "ipv4" ? "IPv4" : "IPv6"}` : ""}`}</span>
                                <span className={`hf-tag ${p.quality === "poor" || p.quality === "lost" ? "hf-tag--warn" : p.quality === "excellent" ? "hf-tag--ok" : ""}`}>{quality(p.quality)}</span>
                            </span>
                            {acts && (
                                <Button look="plain" icon="exit" onPress={() => setAsked(p)} data-testid="call-remove">
                                    {t("console.calls.remove")}
                                </Button>
                            )}
                        </div>
                        <dl className="calls-line">
                            <div>
                                <dt>{t("console.calls.rtt")}</dt>
                                <dd className={rttClass(p.rtt_ms)}>{p.rtt_ms > 0 ? millis(p.rtt_ms) : t("console.calls.unknown")}</dd>
                            </div>
                            <div>
                                <dt>{t("console.calls.sends")}</dt>
                                <dd>
                                    <Way l={p.up} />
                                </dd>
                            </div>
                            <div>
                                <dt>{t("console.calls.gets")}</dt>
                                <dd>
                                    <Way l={p.down} />
                                </dd>
                            </div>
                            <div>
                                <dt>{t("console.calls.media")}</dt>
                                <dd data-testid="call-media">
                                    {p.tracks.length === 0 ? t("console.calls.nothing") : p.tracks.map((x, i) => <div key={i}>{media(x)}</div>)}
                                    {(p.received ?? []).some((n) => n > 0) && <div className="hf-hint">{t("console.calls.pictures", { layers: (p.received ?? []).map((n, i) => (n > 0 ? t("console.calls.picturesAt", { count: n, layer: i + 1 }) : "")).filter(Boolean).join(", ") })}</div>}
                                </dd>
                            </div>
                        </dl>
                    </li>
                ))}
            </ul>
            {people.length > shownAtFirst && !all && (
                <Button look="plain" onPress={() => setAll(true)}>
                    {t("console.calls.all", { count: people.length })}
                </Button>
            )}
            {asked && (
                <Confirm
                    title={t("console.calls.removeTitle", { name: name(asked) })}
                    yes={t("console.calls.remove")}
                    danger
                    isOpen
                    onYes={async () => {
                        await api("POST", "/api/console/calls/remove", { id, participant: asked.id });
                        toast(t("console.calls.removed", { name: name(asked) }));
                        await Promise.all([again(), reload()]).catch((e) => toast(messageOf(e)));
                    }}
                    onClose={() => setAsked(undefined)}
                >
                    {t("console.calls.removeText")}
                </Confirm>
            )}
        </div>
    );
}

function Way({ l }: { l: Link }) {
    return (
        <>
            {bits(l.bits)}
            <span className={lossClass(l.loss)}>{t("console.calls.loss", { loss: percent(l.loss) })}</span>
            <span className="hf-hint">{t("console.calls.jitter", { jitter: millis(l.jitter_ms) })}</span>
        </>
    );
}

function quality(word: string): string {
    switch (word) {
        case "excellent":
        case "good":
        case "poor":
        case "lost":
            return t(`console.calls.quality.${word}`);
        default:
            return word;
    }
}

function media(x: Track): string {
    const sources: Record<string, string> = { microphone: t("console.calls.source.microphone"), camera: t("console.calls.source.camera"), screen_share: t("console.calls.source.screen"), screen_share_audio: t("console.calls.source.screenSound") };
    let text = sources[x.source] ?? t(x.kind === "video" ? "console.calls.source.picture" : "console.calls.source.sound");
    if (x.codec) text += ` (${x.codec.toUpperCase()})`;
    if (x.muted) return `${text}: ${t("console.calls.muted")}`;
    if (x.layers?.length) text += `: ${x.layers.map((l) => (l.width ? `${l.width}×${l.height} ${bits(l.bits)}` : bits(l.bits))).join(", ")}`;
    return text;
}

function Relay({ r, now }: { r: Report; now: number }) {
    const w = r.relay;
    return (
        <section className="hf-card hf-card--wide calls-card" aria-labelledby="calls-relay" data-testid="calls-relay">
            <h2 id="calls-relay">{t("console.calls.relay")}</h2>
            <dl className="console-facts">
                <Fact label={t("console.calls.process")}>
                    {w.running && w.since ? t("console.calls.up2", { since: duration(now - Date.parse(w.since)), memory: bytes(w.memory_bytes) }) : t("console.calls.notRunning")}
                    {w.restarts > 0 && <span className="hf-hint calls-reason">{t("console.calls.again", { count: w.restarts, reason: w.reason ?? "" })}</span>}
                </Fact>
                <Fact label={t("console.calls.ports")}>{t("console.calls.portsText", { udp: String(w.udp_port), tcp: String(w.tcp_port), turn: String(w.turn_port) })}</Fact>
                <Fact label={t("console.calls.addresses")}>
                    <span className="setup-mono">{(w.addresses ?? []).join(", ")}</span>
                </Fact>
                <Fact label={t("console.calls.limits")}>
                    {t("console.calls.limitCalls", { limit: r.limits.calls ? number(r.limits.calls) : t("console.calls.noLimit") })}
                    <br />
                    {t("console.calls.limitPeople", { limit: r.limits.participants ? number(r.limits.participants) : t("console.calls.noLimit") })}
                </Fact>
                <Fact label={t("console.calls.turn")}>{t("console.calls.turnText", { open: r.turn.connections, accepted: r.turn.accepted, refused: r.turn.refused, expired: r.turn.expired })}</Fact>
            </dl>
        </section>
    );
}

function Fact({ label, children }: { label: string; children: React.ReactNode }) {
    return (
        <div>
            <dt>{label}</dt>
            <dd>{children}</dd>
        </div>
    );
}

interface Hop {
    name: (typeof hops)[number];
    ok: boolean;
    skipped?: boolean;
    detail: string;
    ms: number;
}

const hops = ["token", "signalling", "udp", "tcp", "turn", "https"] as const;

/** Test has the appliance try each part of a call, and shows which one is broken. */
function Test() {
    const [found, setFound] = useState<Hop[]>();
    const [busy, setBusy] = useState(false);
    const [trouble, setTrouble] = useState<string>();
    const run = async (): Promise<void> => {
        setBusy(true);
        setTrouble(undefined);
        setFound(undefined);
        try {
            setFound(await api<Hop[]>("POST", "/api/console/calls/test", {}));
        } catch (e) {
            setTrouble(messageOf(e));
        } finally {
            setBusy(false);
        }
    };
    const good = found?.every((h) => h.ok);
    return (
        <section className="hf-card hf-card--wide calls-card" aria-labelledby="calls-test" data-testid="calls-test" data-state={busy ? "running" : trouble !== undefined ? "trouble" : found ? (good ? "good" : "bad") : "idle"}>
            <div className="console-title">
                <h2 id="calls-test">{t("console.calls.test")}</h2>
                <Button look="plain" icon="check" onPress={() => void run()} isPending={busy} data-testid="calls-test-run">
                    {t("console.calls.testRun")}
                </Button>
            </div>
            <p role="status" className={good ? "hf-note hf-note--ok" : "hf-hint"}>
                {busy ? t("console.calls.testing") : !found ? t("console.calls.testWhat") : good ? t("console.calls.testGood") : t("console.calls.testBad")}
            </p>
            <ErrorNote>{trouble}</ErrorNote>
            {found && (
                <ul className="setup-checks">
                    {found.map((h) => (
                        <li key={h.name} data-testid={`hop-${h.name}`} data-ok={h.skipped ? "skipped" : h.ok}>
                            <span className={`setup-mark ${h.skipped ? "" : h.ok ? "setup-mark--ok" : "setup-mark--bad"}`}>{!h.skipped && <Icon name={h.ok ? "check" : "close"} />}</span>
                            <span>
                                <b>{t(`console.calls.hop.${h.name}`)}</b>
                                <span className="hf-hidden">{h.skipped ? t("console.calls.hopSkipped") : h.ok ? t("setup.test.passed") : t("setup.test.failed")}</span>
                                <span className="hf-hint setup-check-detail">{h.detail}</span>
                            </span>
                            {!h.skipped && <span className="hf-hint setup-ms">{t("setup.test.ms", { ms: h.ms })}</span>}
                        </li>
                    ))}
                </ul>
            )}
        </section>
    );
}
