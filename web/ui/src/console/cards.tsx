// Cards: invites, and links to accounts that there are, on paper. Their codes are shown to nobody: they are in the
// documents, which are made once.
import { useEffect, useState } from "react";
import { Banner, Button, Confirm, Dialog, Empty, ErrorNote, Switch, TextField, toast } from "../design";
import { t } from "../i18n";
import { ApiError, type Invite, api, messageOf } from "../setup/api";
import { InviteCard } from "../setup/done";
import { type Gifts, GiftFields, RoleTags } from "./groups";
import { date, useLoaded } from "./load";
import { SaveForm } from "./settings";

interface Card {
    id: string;
    number: number;
    state: "open" | "used" | "expired" | "withdrawn";
    user_id?: string;
    display_name?: string;
}

export interface Batch {
    id: string;
    name: string;
    kind: "invite" | "enrol" | "recovery";
    pins: boolean;
    roles: Gifts["roles"];
    groups: string[];
    by?: string;
    created: string;
    expires: string;
    open: number;
    used: number;
    expired: number;
    withdrawn: number;
    cards?: Card[];
}

export interface Printed {
    batch: Batch;
    cards_pdf: string;
    pins_pdf?: string;
}

const path = "/api/console/cards";
const states = ["open", "used", "expired", "withdrawn"] as const;

export const lifetimes = { day: 86_400, week: 604_800, fortnight: 1_209_600, month: 2_592_000 } as const;
export type Life = keyof typeof lifetimes;

/** Lifetime chooses how long something lasts; asBefore is the choice of "", where there is one. */
export function Lifetime<L extends Life | "">({ value, onChange, asBefore }: { value: L; onChange: (l: L) => void; asBefore?: string }) {
    return (
        <label className="hf-field">
            <span className="hf-label">{t("console.invites.life")}</span>
            <select value={value} onChange={(e) => onChange(e.target.value as L)} data-testid="cards-life">
                {asBefore && <option value="">{asBefore}</option>}
                {(Object.keys(lifetimes) as Life[]).map((l) => (
                    <option key={l} value={l}>
                        {t(l === "fortnight" ? "console.cards.fortnight" : `console.invites.${l}`)}
                    </option>
                ))}
            </select>
        </label>
    );
}

/** How cards are printed. */
export interface Paper {
    per_page: 1 | 10;
    pins: boolean;
    language?: string;
}

/** PaperFields choose how cards are printed; with fixed, whether they need PINs is settled. */
export function PaperFields({ value, onChange, fixed }: { value: Paper; onChange: (p: Paper) => void; fixed?: boolean }) {
    const { value: languages, error } = useLoaded<{ tag: string; name: string }[]>(`${path}/languages`);
    // The one of this browser, where there is one.
    const mine = languages?.find((l) => l.tag === navigator.language.split("-")[0])?.tag ?? "en";
    useEffect(() => {
        if (languages && !value.language) onChange({ ...value, language: mine });
    }, [languages, mine, value, onChange]);
    return (
        <>
            <label className="hf-field">
                <span className="hf-label">{t("console.cards.paper")}</span>
                <select value={value.per_page} onChange={(e) => onChange({ ...value, per_page: e.target.value === "1" ? 1 : 10 })} data-testid="cards-per-page">
                    <option value="10">{t("console.cards.ten")}</option>
                    <option value="1">{t("console.cards.one")}</option>
                </select>
            </label>
            <label className="hf-field">
                <span className="hf-label">{t("console.cards.language")}</span>
                <select value={value.language ?? mine} onChange={(e) => onChange({ ...value, language: e.target.value })} data-testid="cards-language">
                    {(languages ?? []).map((l) => (
                        <option key={l.tag} value={l.tag} lang={l.tag}>
                            {l.name}
                        </option>
                    ))}
                </select>
            </label>
            <ErrorNote>{error}</ErrorNote>
            {!fixed && (
                <Switch isSelected={value.pins} onChange={(pins) => onChange({ ...value, pins })} hint={t("console.cards.pinsHint")} data-testid="cards-pins">
                    {t("console.cards.pins")}
                </Switch>
            )}
        </>
    );
}

/** fileName is a batch's name as that of a file. */
const fileName = (name: string): string => name.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "cards";

/** useDocument is the address of a document of base64 for as long as it is shown. */
function useDocument(base64: string | undefined): string | undefined {
    const [url, setUrl] = useState<string>();
    useEffect(() => {
        if (!base64) return;
        const made = URL.createObjectURL(new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], { type: "application/pdf" }));
        setUrl(made);
        return () => URL.revokeObjectURL(made);
    }, [base64]);
    return url;
}

/** PrintedCards gives out the documents of new cards. */
export function PrintedCards({ printed }: { printed: Printed }) {
    const cards = useDocument(printed.cards_pdf);
    const pins = useDocument(printed.pins_pdf);
    const name = fileName(printed.batch.name);
    return (
        <div data-testid="cards-printed">
            <p>{t("console.cards.printed", { count: printed.batch.cards?.length ?? 0, until: date(printed.batch.expires) })}</p>
            <Banner icon="alert" kind="warn">
                {t("console.cards.once")}
            </Banner>
            <p className="console-papers">
                {cards && (
                    <a className="hf-button" href={cards} download={`${name}.pdf`} data-testid="cards-pdf">
                        {t("console.cards.save")}
                    </a>
                )}
                {pins && (
                    <a className="hf-button hf-button--plain" href={pins} download={`${name}-PIN.pdf`} data-testid="pins-pdf">
                        {t("console.cards.savePins")}
                    </a>
                )}
            </p>
        </div>
    );
}

export function CardsPage({ acts }: { acts: boolean }) {
    const { value: batches, error, reload } = useLoaded<Batch[]>(path);
    const [making, setMaking] = useState(false);
    const [printed, setPrinted] = useState<Printed>();
    const [open, setOpen] = useState<string>();
    const [asked, setAsked] = useState<Batch>();
    const [again, setAgain] = useState<{ batch: Batch; card?: Card }>();
    return (
        <>
            <div className="console-title">
                <h1>{t("console.cards.title")}</h1>
                {acts && (
                    <Button icon="add" onPress={() => setMaking(true)} data-testid="cards-new">
                        {t("console.cards.new")}
                    </Button>
                )}
            </div>
            <p className="hf-hint">{t("console.cards.text")}</p>
            <ErrorNote>{error}</ErrorNote>
            {printed && (
                <section className="hf-card hf-card--wide" aria-label={t("console.cards.made")}>
                    <PrintedCards printed={printed} />
                </section>
            )}
            {batches?.length === 0 && <Empty icon="file" title={t("console.cards.none")} />}
            <ul className="console-list" data-testid="batches">
                {(batches ?? []).map((b) => (
                    <li key={b.id}>
                        <span className="console-who">
                            <b>{b.name}</b>
                            <span className="hf-hint">{t(`console.cards.kind.${b.kind}`)}</span>
                            <span className="hf-hint">{t("console.invites.from", { by: b.by || t("console.cards.machine"), when: date(b.created) })}</span>
                        </span>
                        <span className="console-tags">
                            <RoleTags of={b.roles} />
                            {b.groups.map((g) => (
                                <span key={g} className="hf-tag">
                                    {g}
                                </span>
                            ))}
                        </span>
                        <span className="hf-hint console-when">
                            {states
                                .filter((s) => b[s] > 0)
                                .map((s) => t(`console.cards.count.${s}`, { count: b[s] }))
                                .join(" · ")}
                            <br />
                            {t("setup.invite.until", { until: date(b.expires) })}
                        </span>
                        <span className="console-buttons">
                            <Button look="plain" icon="eye" onPress={() => setOpen(b.id)}>
                                {t("console.cards.show")}
                            </Button>
                            {acts && b.open + b.expired > 0 && (
                                <Button look="plain" icon="file" onPress={() => setAgain({ batch: b })} data-testid="batch-reprint">
                                    {t("console.cards.again")}
                                </Button>
                            )}
                            {acts && b.open > 0 && (
                                <Button look="plain" icon="trash" onPress={() => setAsked(b)} data-testid="batch-revoke">
                                    {t("console.cards.revokeAll")}
                                </Button>
                            )}
                        </span>
                    </li>
                ))}
            </ul>
            {making && (
                <NewCards
                    onClose={() => setMaking(false)}
                    onMade={(p) => {
                        setPrinted(p);
                        setMaking(false);
                        void reload();
                    }}
                />
            )}
            {open && <OneBatch id={open} acts={acts} onChange={reload} onAgain={(batch, card) => setAgain({ batch, card })} onClose={() => setOpen(undefined)} />}
            {again && (
                <Again
                    {...again}
                    onClose={() => setAgain(undefined)}
                    onMade={(p) => {
                        setPrinted(p);
                        setAgain(undefined);
                        setOpen(undefined);
                        void reload();
                    }}
                />
            )}
            {asked && (
                <Confirm
                    title={t("console.cards.revokeTitle", { name: asked.name })}
                    yes={t("console.cards.revokeAll")}
                    danger
                    isOpen
                    onYes={async () => {
                        const { cards } = await api<{ cards: number }>("POST", `${path}/${encodeURIComponent(asked.id)}/revoke`, {});
                        toast(t("console.cards.revoked", { count: cards }));
                        if (printed?.batch.id === asked.id) setPrinted(undefined);
                        await reload();
                    }}
                    onClose={() => setAsked(undefined)}
                >
                    {t("console.cards.revokeText")}
                </Confirm>
            )}
        </>
    );
}

function NewCards({ onClose, onMade }: { onClose: () => void; onMade: (p: Printed) => void }) {
    const [name, setName] = useState("");
    const [count, setCount] = useState("10");
    const [life, setLife] = useState<Life>("fortnight");
    const [gifts, setGifts] = useState<Gifts>({ roles: [], groups: [] });
    const [paper, setPaper] = useState<Paper>({ per_page: 10, pins: false });
    return (
        <Dialog title={t("console.cards.new")} isOpen onClose={onClose}>
            <SaveForm
                save={async () => onMade(await api<Printed>("POST", path, { name: name.trim(), kind: "invite", count: parseInt(count, 10) || 0, expires_in: lifetimes[life], ...gifts, ...paper }))}
                button={t("console.cards.make")}
                testId="cards-make"
                onCancel={onClose}
                fields={(errorOf) => (
                    <>
                        <TextField label={t("console.cards.name")} value={name} onChange={setName} hint={t("console.cards.nameHint")} error={errorOf("name")} autoFocus isRequired maxLength={128} data-testid="cards-name" />
                        <TextField label={t("console.cards.howMany")} type="number" inputMode="numeric" value={count} onChange={setCount} error={errorOf("count")} data-testid="cards-count" />
                        <Lifetime value={life} onChange={setLife} />
                        <GiftFields value={gifts} onChange={setGifts} />
                        <PaperFields value={paper} onChange={setPaper} />
                    </>
                )}
            />
        </Dialog>
    );
}

/** Again prints a card, or those of a batch that nobody has used, with new codes. */
function Again({ batch, card, onClose, onMade }: { batch: Batch; card?: Card; onClose: () => void; onMade: (p: Printed) => void }) {
    const over = new Date(batch.expires) <= new Date();
    const [life, setLife] = useState<Life | "">(over ? "fortnight" : "");
    const [paper, setPaper] = useState<Paper>({ per_page: card ? 1 : 10, pins: batch.pins });
    return (
        <Dialog title={card ? t("console.cards.againOne", { number: card.number, name: batch.name }) : t("console.cards.againTitle", { name: batch.name })} isOpen onClose={onClose} data-testid="cards-again">
            <SaveForm
                save={async () => onMade(await api<Printed>("POST", `${path}/${encodeURIComponent(card?.id ?? batch.id)}/reprint`, { ...(life && { expires_in: lifetimes[life] }), ...paper }))}
                button={t("console.cards.again")}
                testId="cards-again-make"
                onCancel={onClose}
                fields={() => (
                    <>
                        <p>{card ? t("console.cards.againOneText") : t("console.cards.againText", { count: batch.open + batch.expired })}</p>
                        <Lifetime value={life} onChange={setLife} asBefore={over ? undefined : t("console.cards.againUntil", { until: date(batch.expires) })} />
                        <PaperFields value={paper} onChange={setPaper} fixed />
                        {batch.pins && <p className="hf-hint">{t("console.cards.againPins")}</p>}
                    </>
                )}
            />
        </Dialog>
    );
}

function OneBatch({ id, acts, onChange, onAgain, onClose }: { id: string; acts: boolean; onChange: () => Promise<void>; onAgain: (b: Batch, c: Card) => void; onClose: () => void }) {
    const { value: b, error, reload } = useLoaded<Batch>(`${path}/${encodeURIComponent(id)}`);
    const [trouble, setTrouble] = useState<string>();
    const revoke = async (c: Card): Promise<void> => {
        try {
            await api("POST", `${path}/${encodeURIComponent(c.id)}/revoke`, {});
            setTrouble(undefined);
        } catch (e) {
            setTrouble(messageOf(e));
        }
        await reload();
        await onChange();
    };
    return (
        <Dialog title={b?.name ?? t("console.cards.title")} isOpen wide onClose={onClose}>
            <ErrorNote>{error ?? trouble}</ErrorNote>
            <ul className="console-list console-cards" data-testid="batch-cards">
                {(b?.cards ?? []).map((c) => (
                    <li key={c.id}>
                        <span className="console-who">
                            <b>{t("console.cards.number", { number: c.number })}</b>
                            <span className="hf-hint">{c.user_id ?? t("console.invites.forAnyone")}</span>
                        </span>
                        <span className="console-tags">
                            <span className={c.state === "open" ? "hf-tag hf-tag--ok" : "hf-tag"}>{t(`console.cards.state.${c.state}`)}</span>
                        </span>
                        {acts && b && c.state !== "used" && (
                            <Button look="plain" icon="file" onPress={() => onAgain(b, c)}>
                                {t("console.cards.again")}
                            </Button>
                        )}
                        {acts && c.state === "open" && (
                            <Button look="plain" icon="trash" onPress={() => void revoke(c)}>
                                {t("console.invites.revoke")}
                            </Button>
                        )}
                    </li>
                ))}
            </ul>
            <div className="hf-actions">
                <Button onPress={onClose}>{t("common.close")}</Button>
            </div>
        </Dialog>
    );
}

/** WayIn makes a link or a card for one person: a new password where they have one, else the first. */
export function WayIn({ user, onClose }: { user: { user_id: string; display_name: string; has_password: boolean }; onClose: () => void }) {
    const [life, setLife] = useState<Life>("day");
    const [paper, setPaper] = useState<Paper>({ per_page: 1, pins: false });
    const [made, setMade] = useState<{ link?: Invite; printed?: Printed }>();
    const [busy, setBusy] = useState<"link" | "card">();
    const [error, setError] = useState<string>();
    const kind = user.has_password ? "recovery" : "enrol";
    const name = user.display_name || user.user_id;
    const make = async (what: "link" | "card"): Promise<void> => {
        setBusy(what);
        setError(undefined);
        try {
            if (what === "link") setMade({ link: await api<Invite>("POST", "/api/console/links", { user_id: user.user_id, kind, expires_in: lifetimes[life] }) });
            else setMade({ printed: await api<Printed>("POST", path, { name, kind, users: [user.user_id], expires_in: lifetimes[life], ...paper }) });
        } catch (e) {
            setError(e instanceof ApiError && e.field === "name" ? t("console.wayIn.badName") : messageOf(e));
        }
        setBusy(undefined);
    };
    return (
        <Dialog title={t(`console.wayIn.title.${kind}`, { name })} isOpen wide={!!made} onClose={onClose} data-testid="way-in">
            {!made && (
                <>
                    <p>{t(`console.wayIn.text.${kind}`)}</p>
                    {kind === "recovery" && (
                        <Banner icon="alert" kind="warn">
                            {t("console.wayIn.sure")}
                        </Banner>
                    )}
                    <Lifetime value={life} onChange={setLife} />
                    <PaperFields value={paper} onChange={setPaper} />
                </>
            )}
            {made?.link && (
                <>
                    <InviteCard invite={made.link} text={t("console.wayIn.made", { user: user.user_id })} />
                    <p className="hf-hint">{t("console.invites.once")}</p>
                </>
            )}
            {made?.printed && <PrintedCards printed={made.printed} />}
            <ErrorNote>{error}</ErrorNote>
            <div className="hf-actions">
                <Button look="plain" onPress={onClose}>
                    {made ? t("common.close") : t("common.cancel")}
                </Button>
                {!made && (
                    <>
                        <Button look="plain" icon="link" isPending={busy === "link"} onPress={() => void make("link")} data-testid="way-in-link">
                            {t("console.wayIn.link")}
                        </Button>
                        <Button icon="file" isPending={busy === "card"} onPress={() => void make("card")} data-testid="way-in-card">
                            {t("console.wayIn.card")}
                        </Button>
                    </>
                )}
            </div>
        </Dialog>
    );
}
