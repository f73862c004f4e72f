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
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<string>();
    const send = async (): Promise<void> => {
        setBusy(true);
        setError(undefined);
        try {
            await api("POST", "/api/console/mail/test", { to: to.trim() });
            toast(t("console.mail.tested", { to: to.trim() }));
        } catch (e) {
            setError(messageOf(e));
        }
        setBusy(false);
    };
    return (
        <form
            onSubmit={(e) => {
                e.preventDefault();
                void send();
            }}
        >
            <TextField label={t("console.mail.testTo")} type="email" autoComplete="email" value={to} onChange={setTo} error={error} data-testid="mail-to" />
            <div className="hf-actions">
                <Button type="submit" look="plain" isPending={busy} data-testid="mail-test">
                    {t("console.mail.test")}
                </Button>
            </div>
        </form>
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
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<ApiError>();
    const save = async (): Promise<void> => {
        setBusy(true);
        setError(undefined);
        try {
            await api("PUT", "/api/console/mail", { host: host.trim(), port: parseInt(port, 10) || 0, security, user: user.trim(), password, from: from.trim(), ca: ca.trim() });
            onSaved();
        } catch (e) {
            setError(asError(e));
            setBusy(false);
        }
    };
    return (
        <Dialog title={t("console.mail.setUp")} isOpen onClose={onClose}>
            <form
                onSubmit={(e) => {
                    e.preventDefault();
                    void save();
                }}
            >
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
                        error={error?.field === "password" ? error.message : undefined}
                    />
                )}
                <TextField label={t("console.mail.ca")} multiline value={ca} onChange={setCA} hint={t("console.mail.caHint")} autoComplete="off" spellCheck="false" />
                <ErrorNote>{error && error.field !== "password" ? error.message : undefined}</ErrorNote>
                <div className="hf-actions">
                    <Button look="plain" onPress={onClose}>
                        {t("common.cancel")}
                    </Button>
                    <Button type="submit" isPending={busy} data-testid="mail-save">
                        {t("console.mail.save")}
                    </Button>
                </div>
            </form>
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
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<ApiError>();
    const fields: [keyof FileRules, string, string][] = [
        ["max_upload", t("console.files.maxUpload"), t("console.files.maxUploadHint")],
        ["quota", t("console.files.quota"), t("console.files.quotaHint")],
        ["total", t("console.files.total"), t("console.files.totalHint")],
        ["keep", t("console.files.keep"), t("console.files.keepHint")],
        ["open", t("console.files.open"), t("console.files.openHint")],
    ];
    const save = async (): Promise<void> => {
        setBusy(true);
        setError(undefined);
        try {
            const typed = Object.fromEntries(Object.entries(rules).map(([k, v]) => [k, v.trim()]));
            setRules(await api<FileRules>("PUT", "/api/console/files", typed));
            toast(t("console.files.saved"));
        } catch (e) {
            setError(asError(e));
        }
        setBusy(false);
    };
    return (
        <form
            onSubmit={(e) => {
                e.preventDefault();
                void save();
            }}
        >
            {fields.map(([name, label, hint]) => (
                <TextField key={name} label={label} hint={hint} value={rules[name]} onChange={(v) => setRules({ ...rules, [name]: v })} autoComplete="off" spellCheck="false" error={error?.field === name ? error.message : undefined} data-testid={`files-${name}`} />
            ))}
            <ErrorNote>{error && !error.field ? error.message : undefined}</ErrorNote>
            <div className="hf-actions">
                <Button type="submit" isPending={busy} data-testid="files-save">
                    {t("console.files.save")}
                </Button>
            </div>
        </form>
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
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<ApiError>();
    const fields: [keyof typeof typed, string, string][] = [
        ["allow", t("console.previews.allow"), t("console.previews.allowHint")],
        ["deny", t("console.previews.deny"), t("console.previews.denyHint")],
        ["private", t("console.previews.private"), t("console.previews.privateHint")],
    ];
    const save = async (): Promise<void> => {
        setBusy(true);
        setError(undefined);
        try {
            const kept = await api<LinkPreviews>("PUT", "/api/console/previews", { enabled, allow: hosts(typed.allow), deny: hosts(typed.deny), private: hosts(typed.private) });
            setTyped({ allow: lines(kept.allow), deny: lines(kept.deny), private: lines(kept.private) });
            toast(t("console.previews.saved"));
        } catch (e) {
            setError(asError(e));
        }
        setBusy(false);
    };
    return (
        <form
            onSubmit={(e) => {
                e.preventDefault();
                void save();
            }}
        >
            <Switch isSelected={enabled} onChange={setEnabled} hint={t("console.previews.onHint")} data-testid="previews-on">
                {t("console.previews.on")}
            </Switch>
            {fields.map(([name, label, hint]) => (
                <TextField key={name} label={label} hint={hint} multiline value={typed[name]} onChange={(v) => setTyped({ ...typed, [name]: v })} autoComplete="off" spellCheck="false" error={error?.field === name ? error.message : undefined} data-testid={`previews-${name}`} />
            ))}
            <ErrorNote>{error && !error.field ? error.message : undefined}</ErrorNote>
            <div className="hf-actions">
                <Button type="submit" isPending={busy} data-testid="previews-save">
                    {t("console.previews.save")}
                </Button>
            </div>
        </form>
    );
}
