// The test of calls from this browser: which ways media can go from here, and what is in the way of the others.
import { useState } from "react";
import { Button, ErrorNote, Icon, Spinner } from "../design";
import { t } from "../i18n";
import { api, messageOf } from "../setup/api";
import { type Outcome, tryWay, type Way, ways } from "./calltest";
import "./calls.css";

interface Answer {
    tokens: Record<Way, string>;
    udp_port: number;
    tcp_port: number;
    turn_port: number;
    addresses: string[] | null;
}

/** said is what an outcome means, and what is to be done. */
function said(o: Outcome, a: Answer): string {
    const at = (a.addresses ?? []).join(", ");
    const port = { udp: a.udp_port, tcp: a.tcp_port, turn: a.turn_port, https: location.port || (location.protocol === "https:" ? 443 : 80) }[o.way];
    const more = o.detail ? ` (${o.detail})` : "";
    if (o.ok) {
        if (o.way === "https") return t(o.tls ? "console.calls.from.https.tls" : "console.calls.from.https.plain");
        return t(`console.calls.from.${o.way}.good`, { port: String(port), address: o.detail });
    }
    switch (o.fault) {
        case "signalling":
            return t("console.calls.from.signalling", { more });
        case "refused":
            return t("console.calls.from.refused", { more });
        case "off":
            return t("console.calls.from.off");
        case "browser":
            return t("console.calls.from.browser");
        case "turn":
            return o.way === "https" ? t("console.calls.from.https.turn", { more }) : t("console.calls.from.turn.turn", { port: String(port), at, more });
        case "behind":
            return t("console.calls.from.behind", { udp: String(a.udp_port), more });
        case "silent":
            return t("console.calls.from.silent", { more });
        default:
            return t(o.way === "tcp" ? "console.calls.from.tcp.closed" : "console.calls.from.udp.closed", { port: String(port), at });
    }
}

/** BrowserTest joins test rooms from this browser, by each way alone. */
export function BrowserTest({ path, wizard = false }: { path: string; wizard?: boolean }) {
    const [answer, setAnswer] = useState<Answer>();
    const [found, setFound] = useState<Partial<Record<Way, Outcome>>>({});
    const [busy, setBusy] = useState(false);
    const [trouble, setTrouble] = useState<string>();
    const run = async (): Promise<void> => {
        setBusy(true);
        setTrouble(undefined);
        setFound({});
        setAnswer(undefined);
        try {
            const a = await api<Answer>("POST", path, {});
            setAnswer(a);
            const base = `${location.origin.replace(/^http/, "ws")}/livekit/sfu`;
            await Promise.all(
                ways.map(async (way) => {
                    const o = await tryWay(way, base, a.tokens[way]);
                    setFound((all) => ({ ...all, [way]: o }));
                }),
            );
        } catch (e) {
            setTrouble(messageOf(e));
        } finally {
            setBusy(false);
        }
    };
    const all = ways.map((way) => found[way]);
    const complete = all.every((o) => o !== undefined);
    const skipped = (o: Outcome | undefined): boolean => o?.fault === "off" || o?.fault === "browser";
    const good = complete && all.every((o) => o.ok || skipped(o)) && all.some((o) => o.ok);
    // The order in which clients take what works.
    const best = complete ? (["udp", "tcp", "turn", "https"] as const).find((way) => found[way]?.ok) : undefined;
    return (
        <section className={wizard ? "setup-section" : "hf-card hf-card--wide calls-card"} aria-labelledby="calls-from" data-testid="calls-from" data-state={busy ? "running" : trouble !== undefined ? "trouble" : complete ? (good ? "good" : "bad") : "idle"}>
            <div className={wizard ? "setup-section-head" : "console-title"}>
                <h2 id="calls-from">{t(wizard ? "setup.test.calls" : "console.calls.from")}</h2>
                <Button look={wizard ? "quiet" : "plain"} icon="check" onPress={() => void run()} isPending={busy} data-testid="calls-from-run">
                    {t("console.calls.testRun")}
                </Button>
            </div>
            <p role="status" className={good ? "hf-note hf-note--ok" : "hf-hint"}>
                {busy ? t("console.calls.from.running") : !complete ? t("console.calls.from.what") : best === undefined ? t("console.calls.from.none") : good ? t("console.calls.from.all", { way: t(`console.calls.hop.${best}`) }) : t("console.calls.from.some", { way: t(`console.calls.hop.${best}`) })}
            </p>
            <ErrorNote>{trouble}</ErrorNote>
            {answer && (
                <ul className="setup-checks">
                    {ways.map((way) => {
                        const o = found[way];
                        return (
                            <li key={way} data-testid={`from-${way}`} data-ok={o ? (skipped(o) ? "skipped" : o.ok) : undefined}>
                                <span className={`setup-mark ${!o || skipped(o) ? "" : o.ok ? "setup-mark--ok" : "setup-mark--bad"}`}>{o ? !skipped(o) && <Icon name={o.ok ? "check" : "close"} /> : busy && <Spinner />}</span>
                                <span>
                                    <b>{t(`console.calls.hop.${way}`)}</b>
                                    {o && <span className="hf-hidden">{skipped(o) ? t("console.calls.hopSkipped") : o.ok ? t("setup.test.passed") : t("setup.test.failed")}</span>}
                                    {o && <span className="hf-hint setup-check-detail">{said(o, answer)}</span>}
                                </span>
                                {o && !skipped(o) && <span className="hf-hint setup-ms">{t("setup.test.ms", { ms: o.ms })}</span>}
                            </li>
                        );
                    })}
                </ul>
            )}
        </section>
    );
}
