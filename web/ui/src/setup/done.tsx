// The last page of the wizard: an invite for the second person and a self-test that the server runs.
import { useEffect, useRef, useState } from "react";
import { BrowserTest } from "../console/browsertest";
import { Button, CopyButton, ErrorNote, Icon, Spinner } from "../design";
import { locale, t } from "../i18n";
import { OwnCA } from ".";
import { Recovery } from "./recovery";
import { type Check, type DiskState, type Finished, type Invite, type State, api, messageOf } from "./api";

// A reload of this page shows the same invite instead of making another.
const kept = "hf.setup.done";
interface Kept {
    finished?: Finished | undefined;
    invite?: Invite | undefined;
}
function load(): Kept {
    try {
        return JSON.parse(sessionStorage.getItem(kept) ?? "{}") as Kept;
    } catch {
        return {};
    }
}

export function Done({ state, finished: fresh }: { state: State; finished: Finished | undefined }) {
    const [finished] = useState<Finished | undefined>(() => fresh ?? load().finished);
    const [invite, setInvite] = useState<Invite | undefined>(() => (fresh ? undefined : load().invite));
    const [trouble, setTrouble] = useState<string>();
    // A disk that nobody decided about is the one thing that is hard to mend later.
    const [decided, setDecided] = useState(!state.disk || state.disk.passphrase);
    const heading = useRef<HTMLHeadingElement>(null);
    const asked = useRef(false);

    useEffect(() => {
        heading.current?.focus();
        window.scrollTo(0, 0);
    }, []);
    useEffect(() => {
        if (invite || asked.current) return;
        asked.current = true;
        api<Invite>("POST", "/api/setup/invite").then(setInvite, (e) => setTrouble(messageOf(e)));
    }, [invite]);
    useEffect(() => sessionStorage.setItem(kept, JSON.stringify({ finished, invite })), [finished, invite]);

    const elsewhere = finished && new URL(finished.url, location.href).origin !== location.origin ? finished.url : undefined;
    return (
        <div className="hf-card hf-card--wide setup-card" data-testid="setup-done">
            <h1 className="hf-title" tabIndex={-1} ref={heading}>
                {t("setup.done.title")}
            </h1>
            {finished && (
                <p className="hf-lead">
                    {t("setup.done.lead")} <b className="setup-mono">{finished.user_id}</b>
                </p>
            )}
            {finished?.restart && <p className="hf-note hf-note--warn">{t("setup.done.restart")}</p>}
            {elsewhere && (
                <p className="hf-note">
                    {t("setup.done.elsewhere")} <a href={elsewhere}>{elsewhere}</a>
                </p>
            )}
            {state.tls.mode === "own-ca" && <OwnCA state={state} />}

            {state.disk && <ProtectDisk disk={state.disk} onDecided={() => setDecided(true)} />}

            <section aria-labelledby="setup-invite" className="setup-section">
                <h2 id="setup-invite">{t("setup.invite.title")}</h2>
                <ErrorNote>{trouble}</ErrorNote>
                {invite ? <InviteCard invite={invite} /> : trouble === undefined && <Wait />}
            </section>

            <SelfTest path="/api/setup/selftest" />
            <BrowserTest path="/api/setup/selftest/browser" wizard />

            <div className="hf-actions">
                {decided ? (
                    <a className="hf-button" href="/?login" data-testid="setup-open">
                        {t("setup.done.open")}
                    </a>
                ) : (
                    <a href="#setup-disk">{t("setup.disk.first")}</a>
                )}
            </div>
        </div>
    );
}

/** ProtectDisk is there on a machine of the appliance's own. */
function ProtectDisk({ disk, onDecided }: { disk: DiskState; onDecided: () => void }) {
    const [done, setDone] = useState(disk.passphrase);
    const [left, setLeft] = useState(false);
    return (
        <section aria-labelledby="setup-disk" className="setup-section" data-testid="setup-disk">
            <h2 id="setup-disk" tabIndex={-1}>{t("setup.disk.title")}</h2>
            {done ? (
                <p className="hf-note hf-note--ok" role="status">
                    {t("setup.disk.done")}
                </p>
            ) : (
                <>
                    <p className="hf-note hf-note--warn">{disk.encrypted ? t("setup.disk.chip") : t("setup.disk.open")}</p>
                    <Recovery
                        base="/api/setup/recovery"
                        onDone={() => {
                            setDone(true);
                            onDecided();
                        }}
                    />
                    {left ? (
                        <p className="hf-note hf-note--warn" role="status">
                            {t("setup.disk.left")}
                        </p>
                    ) : (
                        <div className="hf-actions">
                            <Button
                                look="quiet"
                                onPress={() => {
                                    setLeft(true);
                                    onDecided();
                                }}
                                data-testid="setup-disk-leave"
                            >
                                {disk.encrypted ? t("setup.disk.later") : t("setup.disk.leave")}
                            </Button>
                        </div>
                    )}
                </>
            )}
        </section>
    );
}

function Wait() {
    return (
        <p role="status" className="setup-wait">
            <Spinner /> {t("app.loading")}
        </p>
    );
}

// A recovery passphrase on the same page is what would be printed otherwise.
function printInvite(): void {
    document.body.dataset["print"] = "invite";
    addEventListener("afterprint", () => delete document.body.dataset["print"], { once: true });
    window.print();
}

/** The same link for a second browser on this machine, when the page is open on localhost. */
function localLink(url: string | undefined): string | undefined {
    if (!url || location.hostname !== "localhost" || new URL(url).origin === location.origin) return undefined;
    return location.origin + new URL(url).pathname;
}

export function InviteCard({ invite, text }: { invite: Invite; text?: string }) {
    const local = localLink(invite.url);
    const until = new Intl.DateTimeFormat(locale, { dateStyle: "long", timeStyle: "short" }).format(new Date(invite.expires));
    return (
        <div className="setup-invite">
            {invite.qr_svg && <img className="setup-qr" src={`data:image/svg+xml,${encodeURIComponent(invite.qr_svg)}`} alt={t("setup.invite.qr")} width={176} height={176} />}
            <div className="setup-invite-text">
                <p>{text ?? t("setup.invite.text", { count: invite.uses })}</p>
                <code className="hf-code" data-testid="invite-url">
                    {invite.url}
                </code>
                {local && (
                    <p className="hf-hint">
                        {t("setup.invite.local")}{" "}
                        <a href={local} data-testid="invite-url-local">
                            {local}
                        </a>
                    </p>
                )}
                <p className="hf-hint">{t("setup.invite.until", { until })}</p>
                <div className="setup-invite-actions">
                    <CopyButton text={invite.url ?? ""} label={t("setup.invite.copy")} />
                    <Button look="plain" onPress={printInvite} data-testid="invite-print">
                        {t("setup.invite.print")}
                    </Button>
                </div>
            </div>
        </div>
    );
}

const names = ["login", "message", "media", "call"] as const;

/** SelfTest lets the server try what people will do, and shows how each went. */
export function SelfTest({ path }: { path: string }) {
    const [checks, setChecks] = useState<Check[]>();
    const [busy, setBusy] = useState(false);
    const [trouble, setTrouble] = useState<string>();
    const started = useRef(false);
    const run = async (): Promise<void> => {
        setBusy(true);
        setTrouble(undefined);
        setChecks(undefined);
        try {
            setChecks(await api<Check[]>("POST", path));
        } catch (e) {
            setTrouble(messageOf(e));
        } finally {
            setBusy(false);
        }
    };
    useEffect(() => {
        if (started.current) return;
        started.current = true;
        void run();
    });
    // A check that the server did not make is not a good one.
    const lines = names.map((name) => checks?.find((c) => c.name === name) ?? { name, ok: false, detail: checks ? t("setup.test.missing") : "", ms: 0 });
    const good = checks !== undefined && lines.every((c) => c.ok);
    return (
        <section aria-labelledby="selftest" className="setup-section" data-testid="selftest" data-state={busy ? "running" : trouble !== undefined ? "trouble" : good ? "good" : "bad"}>
            <div className="setup-section-head">
                <h2 id="selftest">{t("setup.test.title")}</h2>
                <Button look="quiet" icon="retry" onPress={() => void run()} isPending={busy}>
                    {t("setup.test.again")}
                </Button>
            </div>
            <p role="status" className={good ? "hf-note hf-note--ok" : "hf-hint"}>
                {busy ? t("setup.test.running") : good ? t("setup.test.good") : checks ? t("setup.test.bad") : t("setup.test.what")}
            </p>
            <ErrorNote>{trouble}</ErrorNote>
            <ul className="setup-checks">
                {lines.map((c) => (
                    <li key={c.name} data-testid={`check-${c.name}`} data-ok={checks ? c.ok : undefined}>
                        <span className={`setup-mark ${checks ? (c.ok ? "setup-mark--ok" : "setup-mark--bad") : ""}`}>{checks ? <Icon name={c.ok ? "check" : "close"} /> : busy ? <Spinner /> : null}</span>
                        <span>
                            <b>{t(`setup.test.${c.name}`)}</b>
                            {checks && <span className="hf-hidden">{c.ok ? t("setup.test.passed") : t("setup.test.failed")}</span>}
                            {c.detail && <span className="hf-hint setup-check-detail">{c.detail}</span>}
                        </span>
                        {checks && <span className="hf-hint setup-ms">{t("setup.test.ms", { ms: c.ms })}</span>}
                    </li>
                ))}
            </ul>
        </section>
    );
}
