// The audit log: what happened, who did it, whether the log is whole, and the log as a file.
import { useState } from "react";
import { Banner, Button, Empty, ErrorNote, TextField } from "../design";
import { locale, t } from "../i18n";
import { api, messageOf } from "../setup/api";
import { number, useLoaded } from "./load";

interface Entry {
    seq: number;
    at: string;
    actor: string;
    event: string;
    target?: string;
    ip?: string;
    data: Record<string, unknown>;
}

interface Report {
    ok: boolean;
    entries: number;
    last: number;
    hash: string;
    problems: string[];
    notes: string[];
}

// Which events each choice stands for.
const kinds = { all: "", signin: "signin", session: "session.", user: "user.", role: "role.", group: "group.", invite: "invite.", directory: "directory.", upstream: "upstream.", app: "app.", setting: "setting.change", admin: "admin." } as const;
type Kind = keyof typeof kinds;

const exact = (iso: string): string => new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "medium" }).format(new Date(iso));

/** day gives the start of a day, or of the next one, as the server takes it. */
function day(value: string, after: number): string {
    if (!value) return "";
    const [y, m, d] = value.split("-").map(Number);
    return new Date(y!, m! - 1, d! + after).toISOString().replace(/\.\d+Z$/, "Z");
}

export function AuditPage() {
    const [actor, setActor] = useState("");
    const [kind, setKind] = useState<Kind>("all");
    const [since, setSince] = useState("");
    const [until, setUntil] = useState("");
    const times = { ...(since && { since: day(since, 0) }), ...(until && { until: day(until, 1) }) };
    const query = new URLSearchParams({ ...(actor.trim() && { actor: actor.trim() }), ...(kinds[kind] && { event: kinds[kind] }), ...times }).toString();
    return (
        <>
            <div className="console-title">
                <h1>{t("console.audit.title")}</h1>
                <span className="hf-actions">
                    <a className="hf-button hf-button--plain" href={`/api/console/audit/export?${new URLSearchParams(times)}`} download data-testid="audit-export">
                        {t("console.audit.export")}
                    </a>
                    <a className="hf-button hf-button--plain" href={`/api/console/audit/export?${new URLSearchParams({ ...times, format: "csv" })}`} download>
                        {t("console.audit.exportTable")}
                    </a>
                </span>
            </div>
            <Verify />
            <div className="console-filter">
                <TextField label={t("console.audit.actor")} type="search" value={actor} onChange={setActor} />
                <label className="hf-field">
                    <span className="hf-label">{t("console.audit.kind")}</span>
                    <select value={kind} onChange={(e) => setKind(e.target.value as Kind)} data-testid="audit-kind">
                        {(Object.keys(kinds) as Kind[]).map((k) => (
                            <option key={k} value={k}>
                                {t(`console.audit.kind.${k}`)}
                            </option>
                        ))}
                    </select>
                </label>
                <TextField label={t("console.audit.since")} type="date" value={since} onChange={setSince} />
                <TextField label={t("console.audit.until")} type="date" value={until} onChange={setUntil} />
            </div>
            <Entries key={query} query={query} />
        </>
    );
}

function Entries({ query }: { query: string }) {
    const { value: first, error } = useLoaded<Entry[]>(`/api/console/audit?${query}`);
    const [more, setMore] = useState<Entry[]>([]);
    const [trouble, setTrouble] = useState<string>();
    const [end, setEnd] = useState(false);
    const all = [...(first ?? []), ...more];
    const older = async (): Promise<void> => {
        try {
            const next = await api<Entry[]>("GET", `/api/console/audit?${query}&before=${all.at(-1)!.seq}`);
            setMore([...more, ...next]);
            setEnd(next.length === 0);
        } catch (e) {
            setTrouble(messageOf(e));
        }
    };
    return (
        <>
            <ErrorNote>{error ?? trouble}</ErrorNote>
            {first?.length === 0 && <Empty icon="search" title={t("console.audit.none")} />}
            <ul className="console-list" data-testid="audit">
                {all.map((e) => (
                    <li key={e.seq}>
                        <span className="console-who">
                            <b>
                                {e.event} {e.target && <span className="console-target">{e.target}</span>}
                            </b>
                            <span className="hf-hint">{t(e.ip ? "console.audit.byFrom" : "console.audit.by", { actor: e.actor, ip: e.ip ?? "" })}</span>
                            {Object.keys(e.data).length > 0 && (
                                <span className="hf-hint">
                                    {Object.entries(e.data)
                                        .filter(([, v]) => !Array.isArray(v) || v.length > 0)
                                        .map(([k, v]) => `${k}: ${Array.isArray(v) ? v.join(", ") : String(v)}`)
                                        .join(" · ")}
                                </span>
                            )}
                        </span>
                        <span className="hf-hint console-when">
                            {exact(e.at)}
                            <br />
                            {t("console.audit.seq", { seq: String(e.seq) })}
                        </span>
                    </li>
                ))}
            </ul>
            {first && first.length >= 100 && !end && (
                <div className="hf-actions">
                    <Button look="plain" onPress={() => void older()}>
                        {t("console.audit.older")}
                    </Button>
                </div>
            )}
        </>
    );
}

function Verify() {
    const [busy, setBusy] = useState(false);
    const [report, setReport] = useState<Report>();
    const [error, setError] = useState<string>();
    const run = async (): Promise<void> => {
        setBusy(true);
        setError(undefined);
        try {
            setReport(await api<Report>("GET", "/api/console/audit/verify"));
        } catch (e) {
            setError(messageOf(e));
        }
        setBusy(false);
    };
    return (
        <section className="hf-card hf-card--wide" aria-labelledby="audit-verify">
            <h2 id="audit-verify">{t("console.audit.whole")}</h2>
            <p>{t("console.audit.wholeText")}</p>
            <ErrorNote>{error}</ErrorNote>
            {report?.ok && (
                <Banner icon="check" kind="accent" role="status">
                    {t("console.audit.ok", { entries: number(report.entries) })}
                </Banner>
            )}
            {report && !report.ok && (
                <Banner icon="alert" kind="danger" role="alert">
                    {t("console.audit.broken")} {report.problems.join(" ")}
                </Banner>
            )}
            {report?.notes.map((n) => (
                <Banner key={n} icon="alert" kind="warn">
                    {t("console.audit.note", { note: n })}
                </Banner>
            ))}
            {report && (
                <p className="hf-hint">
                    {t("console.audit.last")} <code className="console-hash">{`${report.last}:${report.hash}`}</code>
                </p>
            )}
            <div className="hf-actions">
                <Button onPress={() => void run()} isPending={busy} data-testid="audit-verify">
                    {t("console.audit.verify")}
                </Button>
            </div>
        </section>
    );
}
