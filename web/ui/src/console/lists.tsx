// Lists of people: a spreadsheet or an export is compared with the accounts, the changes are shown, and done as they were
// shown.
import { useRef, useState } from "react";
import { Banner, Button, ErrorNote, Progress, Switch, TextField } from "../design";
import { t } from "../i18n";
import { messageOf, upload } from "../setup/api";
import { type Paper, PaperFields, type Printed, PrintedCards } from "./cards";
import { number } from "./load";

interface Change {
    name: string;
    full?: string;
    was?: string;
    groups?: string[];
    why?: string;
}

const kinds = ["make", "join", "rename", "group", "unlock", "lock", "left"] as const;

type Plan = {
    number: string;
    format: string;
    people: number;
    unchanged: number;
    problems?: { line: number; text: string }[];
    notes?: string[];
    alarm?: boolean;
} & { [k in (typeof kinds)[number]]?: Change[] };

// As the command line prints it.
interface Done {
    Made: number;
    Joined: number;
    Renamed: number;
    Grouped: number;
    Locked: number;
    Unlocked: number;
}

const options = ["join", "gone", "names"] as const;

/** As many of each kind are shown. */
const shown = 200;

export function ListsPage({ acts }: { acts: boolean }) {
    const input = useRef<HTMLInputElement>(null);
    const [file, setFile] = useState<File>();
    const [list, setList] = useState("people");
    const [chosen, setChosen] = useState<string[]>([]);
    const [plan, setPlan] = useState<Plan>();
    const [cards, setCards] = useState(true);
    const [paper, setPaper] = useState<Paper>({ per_page: 10, pins: false });
    const [done, setDone] = useState<{ done: Done; printed?: Printed }>();
    const [part, setPart] = useState<number>();
    const [busy, setBusy] = useState<"plan" | "apply">();
    const [error, setError] = useState<string>();
    const query = (more: Record<string, string>, on: string[] = chosen): string => new URLSearchParams({ list, ...Object.fromEntries(on.map((o) => [o, "yes"])), ...more }).toString();
    // What was shown is of these choices alone.
    const choose = (on: string[]): void => {
        setChosen(on);
        setPlan(undefined);
    };
    const run = async (what: "plan" | "apply", act: () => Promise<void>): Promise<void> => {
        setBusy(what);
        setError(undefined);
        try {
            await act();
        } catch (e) {
            setError(messageOf(e));
        }
        setPart(undefined);
        setBusy(undefined);
    };
    const compare = (f: File, on: string[] = chosen): Promise<void> =>
        run("plan", async () => {
            setDone(undefined);
            setPlan(undefined);
            setPlan((await upload<{ plan: Plan }>(`/api/console/lists/plan?${query({}, on)}`, f, setPart)).plan);
        });
    const apply = (f: File, p: Plan): Promise<void> =>
        run("apply", async () => {
            const print = cards && p.make?.length ? { cards: String(paper.per_page), language: paper.language ?? "", ...(paper.pins ? { pins: "yes" } : {}) } : {};
            setDone(await upload<{ done: Done; printed?: Printed }>(`/api/console/lists/apply?${query({ apply: p.number, ...print })}`, f, setPart));
            setPlan(undefined);
            setFile(undefined);
        });
    const changes = plan ? kinds.filter((k) => k !== "left").reduce((n, k) => n + (plan[k]?.length ?? 0), 0) : 0;
    return (
        <>
            <h1>{t("console.lists.title")}</h1>
            <p className="hf-hint">{t("console.lists.text")}</p>
            <ErrorNote>{error}</ErrorNote>
            {acts && (
                <section className="hf-card hf-card--wide" aria-label={t("console.lists.list")}>
                    <TextField
                        label={t("console.lists.name")}
                        value={list}
                        onChange={(v) => {
                            setList(v);
                            setPlan(undefined);
                        }}
                        hint={t("console.lists.nameHint")}
                        spellCheck="false"
                        maxLength={30}
                        data-testid="list-name"
                    />
                    {options.map((o) => (
                        <Switch key={o} isSelected={chosen.includes(o)} onChange={(on) => choose(on ? [...chosen, o] : chosen.filter((x) => x !== o))} hint={t(`console.lists.${o}Hint`)} data-testid={`list-${o}`}>
                            {t(`console.lists.${o}`)}
                        </Switch>
                    ))}
                    {part !== undefined && <Progress value={part} label={t("console.machine.sending")} />}
                    <div className="hf-actions">
                        {file && <span className="hf-hint console-wrap">{file.name}</span>}
                        <Button look={file ? "plain" : "main"} icon="file" isPending={busy === "plan" && !file} onPress={() => input.current?.click()}>
                            {t("console.lists.choose")}
                        </Button>
                        {file && !plan && (
                            <Button isPending={busy === "plan"} onPress={() => void compare(file)} data-testid="list-compare">
                                {t("console.lists.compare")}
                            </Button>
                        )}
                        <input
                            ref={input}
                            type="file"
                            hidden
                            accept=".csv,.tsv,.txt,.ldif,text/csv,text/plain"
                            data-testid="list-file"
                            onChange={(e) => {
                                const f = e.target.files?.[0];
                                e.target.value = "";
                                if (!f) return;
                                setFile(f);
                                void compare(f);
                            }}
                        />
                    </div>
                </section>
            )}
            {plan && file && (
                <section className="hf-card hf-card--wide" aria-label={t("console.lists.changes")} data-testid="list-plan">
                    <p>{t("console.lists.people", { people: number(plan.people), format: plan.format, same: number(plan.unchanged) })}</p>
                    {plan.notes?.map((n) => (
                        <Banner key={n} icon="info">
                            {n}
                        </Banner>
                    ))}
                    {plan.problems && plan.problems.length > 0 && (
                        <details>
                            <summary>{t("console.lists.problems", { count: plan.problems.length })}</summary>
                            <ul className="console-changes">
                                {plan.problems.slice(0, shown).map((p) => (
                                    <li key={p.line}>{t("console.lists.line", { line: p.line, text: p.text })}</li>
                                ))}
                            </ul>
                        </details>
                    )}
                    {kinds.map((k) => {
                        const all = plan[k] ?? [];
                        return (
                            all.length > 0 && (
                                <details key={k} open={k === "lock" || all.length <= 20} data-testid={`list-${k}-changes`}>
                                    <summary>{t(`console.lists.kind.${k}`, { count: all.length })}</summary>
                                    <ul className="console-changes">
                                        {all.slice(0, shown).map((c) => (
                                            <li key={c.name}>
                                                <b>{c.name}</b>
                                                <span className="hf-hint">{[c.was && c.full ? t("console.lists.was", { full: c.full, was: c.was }) : c.full, c.groups?.join(", "), c.why].filter(Boolean).join(" · ")}</span>
                                            </li>
                                        ))}
                                        {all.length > shown && <li>{t("console.lists.more", { count: all.length - shown })}</li>}
                                    </ul>
                                </details>
                            )
                        );
                    })}
                    {plan.alarm && (
                        <>
                            <Banner icon="alert" kind="danger" role="alert">
                                {t("console.lists.alarm")}
                            </Banner>
                            <Button
                                look="plain"
                                onPress={() => {
                                    const on = [...chosen, "anyway"];
                                    setChosen(on);
                                    void compare(file, on);
                                }}
                                data-testid="list-anyway"
                            >
                                {t("console.lists.anyway")}
                            </Button>
                        </>
                    )}
                    {!!plan.make?.length && (
                        <>
                            <Switch isSelected={cards} onChange={setCards} hint={t("console.lists.cardsHint")} data-testid="list-cards">
                                {t("console.lists.cards")}
                            </Switch>
                            {cards && <PaperFields value={paper} onChange={setPaper} />}
                        </>
                    )}
                    {changes === 0 ? (
                        <p>{t("console.lists.nothing")}</p>
                    ) : (
                        !plan.alarm && (
                            <div className="hf-actions">
                                <Button isPending={busy === "apply"} onPress={() => void apply(file, plan)} data-testid="list-apply">
                                    {t("console.lists.apply", { count: changes })}
                                </Button>
                            </div>
                        )
                    )}
                </section>
            )}
            {done && (
                <section className="hf-card hf-card--wide" aria-label={t("console.lists.done")} data-testid="list-done">
                    <p>{t("console.lists.doneText", { made: done.done.Made, joined: done.done.Joined, renamed: done.done.Renamed, grouped: done.done.Grouped, locked: done.done.Locked, unlocked: done.done.Unlocked })}</p>
                    {done.printed && <PrintedCards printed={done.printed} />}
                </section>
            )}
        </>
    );
}
