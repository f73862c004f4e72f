// The setup wizard at /setup: from the claim code to an invite link for the second person.
import { useEffect, useRef, useState, type FormEvent, type ReactNode } from "react";
import { Banner, Brand, Button, ErrorNote, FileTextField, Progress, RadioGroup, Spinner, TextField, Toasts } from "../design";
import { t } from "../i18n";
import { duration } from "../console/load";
import { ApiError, type ClockState, type Finished, type State, type TlsMode, api, messageOf } from "./api";
import { Done } from "./done";
import { minLength, strength } from "./password";
import "./setup.css";

const steps = ["claim", "organisation", "name", "tls", "admin"] as const;
type Step = (typeof steps)[number];

interface Answers {
    organisation: string;
    serverName: string;
    tls: TlsMode;
    cert: string;
    key: string;
    email: string;
    displayName: string;
    localpart: string;
}

// What was typed survives a reload of the page; keys and passwords do not.
const kept = "hf.setup";
function load(): Partial<Answers> {
    try {
        return JSON.parse(sessionStorage.getItem(kept) ?? "{}") as Partial<Answers>;
    } catch {
        return {};
    }
}

function save(answers: Answers): void {
    sessionStorage.setItem(kept, JSON.stringify({ ...answers, key: "" }));
}

export default function Setup() {
    const [state, setState] = useState<State>();
    const [trouble, setTrouble] = useState<string>();
    const [finished, setFinished] = useState<Finished>();
    useEffect(() => {
        document.title = t("setup.title");
        api<State>("GET", "/api/setup").then(setState, (e) => setTrouble(messageOf(e)));
    }, []);
    return (
        <main className="hf-page setup">
            <Brand />
            {trouble !== undefined ? (
                <div className="hf-card">
                    <ErrorNote>{trouble}</ErrorNote>
                    <Button onPress={() => location.reload()}>{t("setup.again")}</Button>
                </div>
            ) : state === undefined ? (
                <p role="status" className="setup-wait">
                    <Spinner /> {t("app.loading")}
                </p>
            ) : finished !== undefined || (state.state === "claimed" && state.proved) ? (
                <Done state={state} finished={finished} />
            ) : state.state === "claimed" ? (
                <div className="hf-card">
                    <h1 className="hf-title">{t("setup.claimed.title")}</h1>
                    <p>{t("setup.claimed.text", { name: state.server_name })}</p>
                    <a className="hf-button" href="/">
                        {t("setup.signIn")}
                    </a>
                </div>
            ) : (
                <Wizard state={state} onProved={() => api<State>("GET", "/api/setup").then(setState)} onFinished={setFinished} />
            )}
            <Toasts />
        </main>
    );
}

/** The claim code that a scanned QR code brings along in the fragment, which is not sent to anybody. */
function codeFromLink(): string {
    const hash = decodeURIComponent(location.hash.slice(1));
    return hash.startsWith("code=") ? hash.slice(5) : hash;
}

const named = (host: string): boolean => host.includes(".") && !/^[\d.]+$|:/.test(host);

/** A good guess for the server name: the address of this page, if it is a name. */
function suggestedName(state: State): string {
    // The bare name of a machine is seldom what a domain should be called for ever.
    if (named(state.server_name)) return state.server_name;
    const host = location.hostname;
    return named(host) ? host : "";
}

function Wizard({ state, onProved, onFinished }: { state: State; onProved: () => Promise<void>; onFinished: (f: Finished) => void }) {
    const [answers, setAnswers] = useState<Answers>(() => ({
        organisation: state.organisation,
        serverName: suggestedName(state),
        tls: state.tls.mode,
        cert: "",
        key: "",
        email: "",
        displayName: "",
        localpart: "",
        ...load(),
    }));
    const [code, setCode] = useState(codeFromLink);
    const [sure, setSure] = useState(false);
    const [password, setPassword] = useState("");
    const [repeat, setRepeat] = useState("");
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<{ message: string; field?: string | undefined }>();
    const form = useRef<HTMLFormElement>(null);
    const heading = useRef<HTMLHeadingElement>(null);
    const first = useRef(true);
    const path = steps.filter((s) => !(s === "name" && state.server_name_fixed) && !(s === "tls" && state.tls.fixed));
    // Each step is an entry in the browser's history, so that its back button and a reload do what people expect.
    const stepIn = (entry: unknown): Step | undefined => path.find((s) => s !== "claim" && s === (entry as { setup?: unknown } | null)?.setup);
    const [step, setStep] = useState<Step>(() => (state.proved ? (stepIn(history.state) ?? "organisation") : "claim"));

    const set = (change: Partial<Answers>): void => {
        const next = { ...answers, ...change };
        setAnswers(next);
        save(next);
        setError(undefined);
    };
    // The new step is announced by its heading; the first one is not, for the page itself is announced then.
    useEffect(() => {
        window.scrollTo(0, 0);
        if (first.current) {
            first.current = false;
            return;
        }
        // Where there is a keyboard people want to type on; the form is named by its heading, which is read out too.
        const field = matchMedia("(pointer: fine)").matches ? form.current?.querySelector<HTMLElement>("input:not([type=checkbox], [type=radio], [type=file])") : undefined;
        (step === "tls" ? heading.current : (field ?? heading.current))?.focus();
    }, [step]);
    // What is wrong is brought into view.
    useEffect(() => {
        if (error) form.current?.querySelector<HTMLElement>("[aria-invalid=true]")?.focus();
    }, [error]);
    const latest = useRef(stepIn);
    latest.current = stepIn;
    useEffect(() => {
        const back = (e: PopStateEvent): void => {
            setError(undefined);
            setStep((now) => (now === "claim" ? now : (latest.current(e.state) ?? "organisation")));
        };
        window.addEventListener("popstate", back);
        return () => window.removeEventListener("popstate", back);
    }, []);

    const at = path.indexOf(step);
    const go = (to: Step | undefined): void => {
        setError(undefined);
        if (!to) return;
        // The code is spent: nothing leads back to its step.
        if (step === "claim") history.replaceState({ setup: to }, "", location.pathname);
        else history.pushState({ setup: to }, "", location.pathname);
        setStep(to);
    };
    const wrong = (...fields: string[]): string | undefined => (error?.field !== undefined && fields.includes(error.field) ? error.message : undefined);

    // Which step asks for a field, to bring the person back to it.
    const stepOf = (field: string): Step | undefined =>
        field === "code" ? "claim" : field === "organisation" ? "organisation" : field === "server_name" ? "name" : field.startsWith("tls") ? "tls" : field.startsWith("admin") ? "admin" : undefined;

    const guess = strength(password, [answers.displayName, answers.localpart, answers.organisation, answers.serverName]);

    const next = async (): Promise<void> => {
        const fail = (field: string, message: string): void => setError({ field, message });
        switch (step) {
            case "claim":
                if (!code.trim()) return fail("code", t("setup.claim.missing"));
                await api("POST", "/api/setup/claim", { code: code.trim() });
                await onProved(); // the machine's own state is for who has the code
                break;
            case "organisation":
                if (!answers.organisation.trim()) return fail("organisation", t("setup.organisation.missing"));
                break;
            case "name": {
                const { server_name } = await api<{ server_name: string }>("POST", "/api/setup/check-name", { server_name: answers.serverName });
                if (server_name !== answers.serverName) {
                    set({ serverName: server_name });
                    setSure(false);
                }
                if (!sure || server_name !== answers.serverName) return fail("sure", t("setup.name.confirmMissing"));
                break;
            }
            case "tls":
                if (answers.tls === "files" && !answers.cert.trim()) return fail("tls.cert", t("setup.tls.certMissing"));
                if (answers.tls === "files" && !answers.key.trim()) return fail("tls.key", t("setup.tls.keyMissing"));
                break;
            case "admin": {
                if (!answers.localpart.trim()) return fail("admin.localpart", t("setup.admin.localpartMissing"));
                if (guess === 0) return fail("admin.password", t("setup.admin.weak", { count: minLength }));
                if (password !== repeat) return fail("repeat", t("setup.admin.repeatWrong"));
                const finished = await api<Finished>("POST", "/api/setup/finish", {
                    organisation: answers.organisation,
                    server_name: state.server_name_fixed ? state.server_name : answers.serverName,
                    tls: state.tls.fixed ? { mode: state.tls.mode } : answers.tls === "files" ? { mode: "files", cert: answers.cert, key: answers.key } : answers.tls === "acme" ? { mode: "acme", email: answers.email } : { mode: answers.tls },
                    admin: { localpart: answers.localpart.trim(), display_name: answers.displayName.trim(), password },
                });
                sessionStorage.removeItem(kept);
                onFinished(finished);
                return;
            }
        }
        go(path[at + 1]);
    };

    const submit = async (e: FormEvent): Promise<void> => {
        e.preventDefault();
        if (busy) return;
        setBusy(true);
        setError(undefined);
        try {
            await next();
        } catch (e) {
            const field = e instanceof ApiError ? e.field : undefined;
            if (e instanceof ApiError && e.code === "not_proved") setStep("claim");
            else if (field !== undefined) {
                const target = stepOf(field);
                if (target && path.includes(target)) setStep(target);
            }
            setError({ message: messageOf(e), field });
        } finally {
            setBusy(false);
        }
    };

    const general = error && !["code", "organisation", "server_name", "sure", "tls.cert", "tls.key", "tls.email", "admin.localpart", "admin.display_name", "admin.password", "repeat"].includes(error.field ?? "") ? error.message : undefined;
    const userId = `@${answers.localpart || t("setup.name.exampleUser")}:${state.server_name_fixed ? state.server_name : answers.serverName || "example.org"}`;

    return (
        <div className="hf-card hf-card--wide setup-card">
            <div className="setup-progress">
                <Progress value={(at + 1) / (path.length + 1)} label={t("setup.progress")} />
                <span className="hf-hint">{t("setup.step", { n: at + 1, of: path.length })}</span>
            </div>
            {state.clock && step !== "claim" && <ClockNote clock={state.clock} />}
            <form ref={form} aria-labelledby="setup-heading" onSubmit={(e) => void submit(e)} noValidate aria-busy={busy} data-testid={`setup-${step}`}>
                <h1 className="hf-title" id="setup-heading" tabIndex={-1} ref={heading}>
                    {t(`setup.${step}.title`)}
                </h1>

                {step === "claim" && (
                    <>
                        <p className="hf-lead">{t("setup.claim.lead")}</p>
                        <TextField label={t("setup.claim.code")} value={code} onChange={setCode} error={wrong("code")} autoFocus autoComplete="off" spellCheck="false" maxLength={100} hint={t("setup.claim.hint")} data-testid="claim-code" />
                    </>
                )}

                {step === "organisation" && (
                    <>
                        <p className="hf-lead">{t("setup.organisation.lead")}</p>
                        <TextField label={t("setup.organisation.label")} value={answers.organisation} onChange={(organisation) => set({ organisation })} error={wrong("organisation")} autoComplete="organization" maxLength={100} data-testid="organisation" />
                    </>
                )}

                {step === "name" && (
                    <>
                        <p className="hf-lead">{t("setup.name.lead")}</p>
                        <TextField
                            label={t("setup.name.label")}
                            value={answers.serverName}
                            onChange={(serverName) => {
                                set({ serverName });
                                setSure(false);
                            }}
                            error={wrong("server_name")}
                            autoComplete="off"
                            spellCheck="false"
                            inputMode="url"
                            placeholder={"example.org"}
                            maxLength={230}
                            data-testid="server-name"
                            hint={
                                <>
                                    {t("setup.name.becomes")} <b className="setup-mono">{userId}</b>
                                </>
                            }
                        />
                        <div className="hf-note">
                            <h2 className="setup-h">{t("setup.name.examples")}</h2>
                            <dl className="setup-examples">
                                <dt>{"example.org"}</dt>
                                <dd>{t("setup.name.exampleDomain")}</dd>
                                <dt>{"chat.example.org"}</dt>
                                <dd>{t("setup.name.exampleSub")}</dd>
                                <dt>{"holdfast.internal"}</dt>
                                <dd>{t("setup.name.exampleInternal")}</dd>
                            </dl>
                        </div>
                        <div className="hf-note hf-note--warn">
                            <p>{t("setup.name.permanent")}</p>
                            <label className="hf-check setup-sure">
                                <input
                                    type="checkbox"
                                    checked={sure}
                                    onChange={(e) => {
                                        setSure(e.target.checked);
                                        setError(undefined);
                                    }}
                                    aria-invalid={error?.field === "sure"}
                                    aria-describedby="setup-sure-error"
                                    data-testid="server-name-sure"
                                />
                                <span>{t("setup.name.confirm", { name: answers.serverName || "…" })}</span>
                            </label>
                            <p id="setup-sure-error" className="hf-error" role={error?.field === "sure" ? "alert" : undefined}>
                                {wrong("sure")}
                            </p>
                        </div>
                    </>
                )}

                {step === "tls" && (
                    <>
                        <p className="hf-lead">{t("setup.tls.lead")}</p>
                        <RadioGroup<TlsMode>
                            label={t("setup.tls.label")}
                            value={answers.tls}
                            onChange={(tls) => set({ tls })}
                            data-testid="tls-mode"
                            choices={[
                                { value: "own-ca", label: t("setup.tls.ownCA"), hint: t("setup.tls.ownCAHint") },
                                { value: "files", label: t("setup.tls.files"), hint: t("setup.tls.filesHint") },
                                { value: "acme", label: t("setup.tls.acme"), hint: t("setup.tls.acmeHint") },
                                ...(state.tls.mode === "off" ? [{ value: "off" as const, label: t("setup.tls.off"), hint: t("setup.tls.offHint") }] : []),
                            ]}
                        />
                        {answers.tls === "own-ca" && <OwnCA state={state} />}
                        {answers.tls === "files" && (
                            <>
                                <FileTextField accept=".pem,.crt,.cer,.key,.txt" maxBytes={200_000} label={t("setup.tls.cert")} pick={t("setup.tls.certPick")} value={answers.cert} onChange={(cert) => set({ cert })} error={wrong("tls.cert")} hint={t("setup.tls.certHint")} testId="tls-cert" />
                                <FileTextField accept=".pem,.crt,.cer,.key,.txt" maxBytes={200_000} label={t("setup.tls.key")} pick={t("setup.tls.keyPick")} value={answers.key} onChange={(key) => set({ key })} error={wrong("tls.key")} hint={t("setup.tls.keyHint")} testId="tls-key" />
                            </>
                        )}
                        {answers.tls === "acme" && (
                            <TextField label={t("setup.tls.email")} type="email" value={answers.email} onChange={(email) => set({ email })} error={wrong("tls.email")} autoComplete="email" hint={t("setup.tls.emailHint")} data-testid="tls-email" />
                        )}
                    </>
                )}

                {step === "admin" && (
                    <>
                        <p className="hf-lead">{t("setup.admin.lead")}</p>
                        <TextField
                            label={t("setup.admin.name")}
                            value={answers.displayName}
                            onChange={(displayName) => {
                                const follow = answers.localpart === "" || answers.localpart === localpartOf(answers.displayName);
                                set({ displayName, ...(follow ? { localpart: localpartOf(displayName) } : {}) });
                            }}
                            error={wrong("admin.display_name")}
                            autoComplete="name"
                            maxLength={100}
                            data-testid="admin-name"
                        />
                        <TextField
                            label={t("setup.admin.localpart")}
                            value={answers.localpart}
                            onChange={(localpart) => set({ localpart: localpart.toLowerCase() })}
                            error={wrong("admin.localpart")}
                            autoComplete="username"
                            spellCheck="false"
                            maxLength={100}
                            data-testid="admin-localpart"
                            hint={
                                <>
                                    {t("setup.admin.localpartHint")} <b className="setup-mono">{userId}</b>
                                </>
                            }
                        />
                        <TextField label={t("setup.admin.password")} type="password" value={password} onChange={setPassword} error={wrong("admin.password")} autoComplete="new-password" data-testid="admin-password" hint={<Strength password={password} score={guess} />} />
                        <TextField label={t("setup.admin.repeat")} type="password" value={repeat} onChange={setRepeat} error={wrong("repeat")} autoComplete="new-password" data-testid="admin-repeat" />
                        <Summary answers={answers} state={state} />
                    </>
                )}

                <ErrorNote>{general}</ErrorNote>
                <div className="hf-actions setup-actions">
                    {at > 0 && !(at === 1 && path[0] === "claim") && (
                        <Button look="plain" onPress={() => (stepIn(history.state) === step ? history.back() : go(path[at - 1]))} isDisabled={busy}>
                            {t("setup.back")}
                        </Button>
                    )}
                    <Button type="submit" isPending={busy} data-testid="setup-next">
                        {step === "admin" ? t("setup.finish") : t("setup.next")}
                    </Button>
                </div>
            </form>
        </div>
    );
}

// localpartOf proposes a user name: letters without accents, dots for spaces.
function localpartOf(name: string): string {
    return name
        .trim()
        .toLowerCase()
        .replaceAll("ß", "ss")
        .normalize("NFKD")
        .replace(/[\u0300-\u036f]/g, "")
        .replace(/\s+/g, ".")
        .replace(/[^a-z0-9._=-]/g, "");
}

function Strength({ password, score }: { password: string; score: 0 | 1 | 2 | 3 | 4 }) {
    if (password === "") return <>{t("setup.admin.passwordHint", { count: minLength })}</>;
    return (
        <span className="setup-strength" data-score={score}>
            <span className="setup-strength-bar" aria-hidden="true">
                {[1, 2, 3, 4].map((n) => (
                    <i key={n} className={n <= score ? "on" : ""} />
                ))}
            </span>
            <span aria-live="polite">{t(`setup.strength.${score}`)}</span>
        </span>
    );
}

/** ClockNote offers this device's time to a machine whose clock says another. */
function ClockNote({ clock }: { clock: ClockState }) {
    const [skew, setSkew] = useState(0);
    const [trouble, setTrouble] = useState<string>();
    useEffect(() => setSkew(Math.abs(Date.parse(clock.now) - Date.now())), [clock.now]);
    if (skew < 120_000) return null;
    return (
        <>
            <Banner
                icon="alert"
                kind="warn"
                role="alert"
                action={
                    <Button
                        onPress={() =>
                            void api("POST", "/api/setup/clock", { now: new Date().toISOString() }).then(
                                () => setSkew(0),
                                (e) => setTrouble(messageOf(e)),
                            )
                        }
                        data-testid="setup-clock"
                    >
                        {t("setup.clock.set")}
                    </Button>
                }
            >
                {t("setup.clock.text", { by: duration(skew) })}
            </Banner>
            <ErrorNote>{trouble}</ErrorNote>
        </>
    );
}

function Summary({ answers, state }: { answers: Answers; state: State }) {
    const rows: [string, ReactNode][] = [
        [t("setup.organisation.label"), answers.organisation],
        [t("setup.name.label"), <span className="setup-mono">{state.server_name_fixed ? state.server_name : answers.serverName}</span>],
    ];
    return (
        <dl className="hf-note setup-summary">
            {rows.map(([k, v]) => (
                <div key={k}>
                    <dt>{k}</dt>
                    <dd>{v}</dd>
                </div>
            ))}
        </dl>
    );
}

export function OwnCA({ state }: { state: State }) {
    if (!state.tls.ca_fingerprint) return null;
    return (
        <div className="hf-note" data-testid="ca">
            <h2 className="setup-h">{t("setup.tls.fingerprint")}</h2>
            <code className="setup-fingerprint">{state.tls.ca_fingerprint}</code>
            <p className="hf-hint">{t("setup.tls.fingerprintHint")}</p>
            {state.tls.ca_url && (
                <a className="hf-button hf-button--plain" href={state.tls.ca_url} download>
                    {t("setup.tls.download")}
                </a>
            )}
        </div>
    );
}
