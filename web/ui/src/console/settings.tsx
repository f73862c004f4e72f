// The console's page of what administrators decide: where e-mail is handed in, and the rules for uploaded files and for
// previews of links.
import { useState } from "react";
import { Button, Confirm, Dialog, ErrorNote, Switch, TextField, toast } from "../design";
import { t } from "../i18n";
import { ApiError, api, messageOf } from "../setup/api";
import { useLoaded } from "./load";

interface MailServer {
    host: string;
    port: number;
    security: string;
    user: string;
    has_password: boolean;
    from: string;
    ca?: string;
}

const kinds = ["starttls", "tls", "none"] as const;
type Kind = (typeof kinds)[number];

interface FileRules {
    max_upload: string;
    quota: string;
    total: string;
    keep: string;
    open: string;
}

interface LinkPreviews {
    enabled: boolean;
    allow: string[];
    deny: string[];
    private: string[];
}

/** FieldError gives what the server said about a field. */
type FieldError = (field: string) => string | undefined;

/**
 * SaveForm is a form that hands in what was typed. What the server says about a field stands at that field, if fields()
 * names it; all else above the buttons.
 */
export function SaveForm({ save, button, look = "main", testId, onCancel, fields }: { save: () => Promise<void>; button: string; look?: "main" | "plain" | "danger"; testId: string; onCancel?: () => void; fields: (errorOf: FieldError) => React.ReactNode }) {
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<ApiError>();
    const shown = new Set<string>();
    const run = async (): Promise<void> => {
        setBusy(true);
        setError(undefined);
        try {
            await save();
        } catch (e) {
            setError(asError(e));
        }
        setBusy(false);
    };
    const body = fields((field) => {
        shown.add(field);
        return error?.field === field ? error.message : undefined;
    });
    return (
        <form
            onSubmit={(e) => {
                e.preventDefault();
                void run();
            }}
        >
            {body}
            <ErrorNote>{error && !(error.field && shown.has(error.field)) ? error.message : undefined}</ErrorNote>
            <div className="hf-actions">
                {onCancel && (
                    <Button look="plain" onPress={onCancel}>
                        {t("common.cancel")}
                    </Button>
                )}
                <Button type="submit" look={look} isPending={busy} data-testid={testId}>
                    {button}
                </Button>
            </div>
        </form>
    );
}

const asError = (e: unknown): ApiError => (e instanceof ApiError ? e : new ApiError(0, "unknown", messageOf(e)));

export function SettingsPage() {
    return (
        <>
            <h1>{t("console.settings.title")}</h1>
            <MailSection />
            <FilesSection />
            <PreviewsSection />
        </>
    );
}

function MailSection() {
    const { value: m, error, reload } = useLoaded<MailServer>("/api/console/mail");
    const [changing, setChanging] = useState(false);
    const [ending, setEnding] = useState(false);
    return (
        <section className="hf-card hf-card--wide" aria-labelledby="settings-mail" data-testid="settings-mail">
            <h2 id="settings-mail">{t("console.mail.title")}</h2>
            <ErrorNote>{error}</ErrorNote>
            {m && !m.host && (
                <>
                    <p>{t("console.mail.off")}</p>
                    <div className="hf-actions">
                        <Button onPress={() => setChanging(true)} data-testid="mail-change">
                            {t("console.mail.setUp")}
                        </Button>
                    </div>
                </>
            )}
            {m?.host && (
                <>
                    <dl className="console-facts">
                        <div>
                            <dt>{t("console.mail.server")}</dt>
                            <dd className="setup-mono">{`${m.host}:${m.port}`}</dd>
                        </div>
                        <div>
                            <dt>{t("console.mail.security")}</dt>
                            <dd>{t(`console.mail.security.${kindOf(m.security)}`)}</dd>
                        </div>
                        <div>
                            <dt>{t("console.mail.login")}</dt>
                            <dd>{m.user || t("console.mail.noLogin")}</dd>
                        </div>
                        <div>
                            <dt>{t("console.mail.from")}</dt>
                            <dd>{m.from}</dd>
                        </div>
                    </dl>
                    <TestMail />
                    <div className="hf-actions">
                        <Button look="plain" icon="trash" onPress={() => setEnding(true)}>
                            {t("console.mail.turnOff")}
                        </Button>
                        <Button look="plain" icon="edit" onPress={() => setChanging(true)} data-testid="mail-change">
                            {t("console.mail.change")}
                        </Button>
                    </div>
                </>
            )}
            {m && changing && (
                <MailForm
                    now={m}
                    onClose={() => setChanging(false)}
                    onSaved={() => {
                        setChanging(false);
                        toast(t("console.mail.saved"));
                        void reload();
                    }}
                />
            )}
            {ending && (
                <Confirm
                    title={t("console.mail.turnOffTitle")}
                    yes={t("console.mail.turnOff")}
                    danger
                    isOpen
                    onYes={async () => {
                        await api("PUT", "/api/console/mail", { host: "" });
                        await reload();
                    }}
                    onClose={() => setEnding(false)}
                >
                    {t("console.mail.turnOffText")}
                </Confirm>
            )}
        </section>
    );
}

const kindOf = (s: string): Kind => kinds.find((k) => k === s) ?? "starttls";

function TestMail() {
    const [to, setTo] = useState("");
    const send = async (): Promise<void> => {
        await api("POST", "/api/console/mail/test", { to: to.trim() });
        toast(t("console.mail.tested", { to: to.trim() }));
    };
    return (
        <SaveForm
            save={send}
            button={t("console.mail.test")}
            look="plain"
            testId="mail-test"
            fields={(errorOf) => <TextField label={t("console.mail.testTo")} type="email" autoComplete="email" value={to} onChange={setTo} error={errorOf("to")} data-testid="mail-to" />}
        />
    );
}

function MailForm({ now, onClose, onSaved }: { now: MailServer; onClose: () => void; onSaved: () => void }) {
    const [host, setHost] = useState(now.host);
    const [port, setPort] = useState(now.port ? String(now.port) : "");
    const [security, setSecurity] = useState<Kind>(kindOf(now.security));
    const [user, setUser] = useState(now.user);
    const [password, setPassword] = useState("");
    const [from, setFrom] = useState(now.from);
    const [ca, setCA] = useState(now.ca ?? "");
    const save = async (): Promise<void> => {
        await api("PUT", "/api/console/mail", { host: host.trim(), port: parseInt(port, 10) || 0, security, user: user.trim(), password, from: from.trim(), ca: ca.trim() });
        onSaved();
    };
    return (
        <Dialog title={t("console.mail.setUp")} isOpen onClose={onClose}>
            <SaveForm
                save={save}
                button={t("console.mail.save")}
                testId="mail-save"
                onCancel={onClose}
                fields={(errorOf) => (
                    <>
                        <TextField label={t("console.mail.host")} value={host} onChange={setHost} autoComplete="off" spellCheck="false" isRequired autoFocus data-testid="mail-host" />
                        <label className="hf-field">
                            <span className="hf-label">{t("console.mail.security")}</span>
                            <select
                                value={security}
                                onChange={(e) => {
                                    setSecurity(kindOf(e.target.value));
                                    setPort("");
                                }}
                                data-testid="mail-security"
                            >
                                {kinds.map((k) => (
                                    <option key={k} value={k}>
                                        {t(`console.mail.security.${k}`)}
                                    </option>
                                ))}
                            </select>
                        </label>
                        <TextField label={t("console.mail.port")} type="number" inputMode="numeric" value={port} onChange={setPort} hint={t("console.mail.portHint")} data-testid="mail-port" />
                        <TextField label={t("console.mail.from")} value={from} onChange={setFrom} hint={t("console.mail.fromHint")} autoComplete="off" spellCheck="false" isRequired data-testid="mail-from" />
                        <TextField label={t("console.mail.user")} value={user} onChange={setUser} autoComplete="off" spellCheck="false" />
                        {user.trim() !== "" && (
                            <TextField
                                label={t("console.mail.password")}
                                type="password"
                                value={password}
                                onChange={setPassword}
                                autoComplete="new-password"
                                hint={now.has_password ? t("console.mail.passwordKept") : undefined}
                                error={errorOf("password")}
                            />
                        )}
                        <TextField label={t("console.mail.ca")} multiline value={ca} onChange={setCA} hint={t("console.mail.caHint")} autoComplete="off" spellCheck="false" />
                    </>
                )}
            />
        </Dialog>
    );
}

function FilesSection() {
    const { value: rules, error } = useLoaded<FileRules>("/api/console/files");
    return (
        <section className="hf-card hf-card--wide" aria-labelledby="settings-files" data-testid="settings-files">
            <h2 id="settings-files">{t("console.files.title")}</h2>
            <ErrorNote>{error}</ErrorNote>
            {rules && <FilesForm now={rules} />}
        </section>
    );
}

function FilesForm({ now }: { now: FileRules }) {
    const [rules, setRules] = useState(now);
    const fields: [keyof FileRules, string, string][] = [
        ["max_upload", t("console.files.maxUpload"), t("console.files.maxUploadHint")],
        ["quota", t("console.files.quota"), t("console.files.quotaHint")],
        ["total", t("console.files.total"), t("console.files.totalHint")],
        ["keep", t("console.files.keep"), t("console.files.keepHint")],
        ["open", t("console.files.open"), t("console.files.openHint")],
    ];
    const save = async (): Promise<void> => {
        const typed = Object.fromEntries(Object.entries(rules).map(([k, v]) => [k, v.trim()]));
        setRules(await api<FileRules>("PUT", "/api/console/files", typed));
        toast(t("console.files.saved"));
    };
    return (
        <SaveForm
            save={save}
            button={t("console.files.save")}
            testId="files-save"
            fields={(errorOf) =>
                fields.map(([name, label, hint]) => (
                    <TextField key={name} label={label} hint={hint} value={rules[name]} onChange={(v) => setRules({ ...rules, [name]: v })} autoComplete="off" spellCheck="false" error={errorOf(name)} data-testid={`files-${name}`} />
                ))
            }
        />
    );
}

function PreviewsSection() {
    const { value: rules, error } = useLoaded<LinkPreviews>("/api/console/previews");
    return (
        <section className="hf-card hf-card--wide" aria-labelledby="settings-previews" data-testid="settings-previews">
            <h2 id="settings-previews">{t("console.previews.title")}</h2>
            <ErrorNote>{error}</ErrorNote>
            {rules && <PreviewsForm now={rules} />}
        </section>
    );
}

const lines = (list: string[]): string => list.join("\n");
const hosts = (text: string): string[] => text.split(/[\s,]+/).filter((h) => h !== "");

function PreviewsForm({ now }: { now: LinkPreviews }) {
    const [enabled, setEnabled] = useState(now.enabled);
    const [typed, setTyped] = useState({ allow: lines(now.allow), deny: lines(now.deny), private: lines(now.private) });
    const fields: [keyof typeof typed, string, string][] = [
        ["allow", t("console.previews.allow"), t("console.previews.allowHint")],
        ["deny", t("console.previews.deny"), t("console.previews.denyHint")],
        ["private", t("console.previews.private"), t("console.previews.privateHint")],
    ];
    const save = async (): Promise<void> => {
        const kept = await api<LinkPreviews>("PUT", "/api/console/previews", { enabled, allow: hosts(typed.allow), deny: hosts(typed.deny), private: hosts(typed.private) });
        setTyped({ allow: lines(kept.allow), deny: lines(kept.deny), private: lines(kept.private) });
        toast(t("console.previews.saved"));
    };
    return (
        <SaveForm
            save={save}
            button={t("console.previews.save")}
            testId="previews-save"
            fields={(errorOf) => (
                <>
                    <Switch isSelected={enabled} onChange={setEnabled} hint={t("console.previews.onHint")} data-testid="previews-on">
                        {t("console.previews.on")}
                    </Switch>
                    {fields.map(([name, label, hint]) => (
                        <TextField key={name} label={label} hint={hint} multiline value={typed[name]} onChange={(v) => setTyped({ ...typed, [name]: v })} autoComplete="off" spellCheck="false" error={errorOf(name)} data-testid={`previews-${name}`} />
                    ))}
                </>
            )}
        />
    );
}
