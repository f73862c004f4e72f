// The recovery passphrase of the data partition: shown once, printed, and typed again from the paper before it counts.
import { useEffect, useRef, useState } from "react";
import { createPortal } from "react-dom";
import { Button, CopyButton, ErrorNote, TextField } from "../design";
import { locale, t } from "../i18n";
import { ApiError, type State, api, messageOf } from "./api";

/** Recovery leads through it. base is "/api/setup/recovery" or the console's. */
export function Recovery({ base, onDone }: { base: string; onDone: () => void }) {
    const [passphrase, setPassphrase] = useState<string>();
    const [of, setOf] = useState<State>();
    const [printed, setPrinted] = useState(false);
    const [typed, setTyped] = useState("");
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<ApiError>();
    const field = useRef<HTMLDivElement>(null);
    useEffect(() => {
        if (error?.field === "passphrase") field.current?.querySelector("input")?.focus();
    }, [error]);
    const name = of?.organisation || location.hostname;
    const attempt = async (f: () => Promise<void>): Promise<void> => {
        setBusy(true);
        setError(undefined);
        try {
            await f();
        } catch (e) {
            setError(e instanceof ApiError ? e : new ApiError(0, "unknown", messageOf(e)));
        } finally {
            setBusy(false);
        }
    };
    const make = () =>
        attempt(async () => {
            // Whose it is stands on the paper.
            setOf(await api<State>("GET", "/api/setup"));
            setPassphrase((await api<{ passphrase: string }>("POST", base, {})).passphrase);
            setPrinted(false);
            setTyped("");
        });
    const confirm = () =>
        attempt(async () => {
            await api("POST", `${base}/confirm`, { passphrase: typed });
            onDone();
        });
    if (passphrase === undefined)
        return (
            <>
                <p>{t("recovery.lead")}</p>
                <ErrorNote>{error?.message}</ErrorNote>
                <div className="hf-actions">
                    <Button icon="key" isPending={busy} onPress={() => void make()} data-testid="recovery-make">
                        {t("recovery.make")}
                    </Button>
                </div>
            </>
        );
    return (
        <form
            noValidate
            data-testid="recovery"
            onSubmit={(e) => {
                e.preventDefault();
                if (printed && !busy) void confirm();
            }}
        >
            {!printed ? (
                <>
                    <Paper passphrase={passphrase} name={name} server={of?.server_name ?? ""} />
                    <p>{t("recovery.print", { name })}</p>
                    <code className="hf-code recovery-words" data-testid="recovery-passphrase">
                        {passphrase}
                    </code>
                    <p className="hf-hint">{t("recovery.keep")}</p>
                    <div className="hf-actions">
                        <CopyButton text={passphrase} label={t("recovery.copy")} />
                        <Button look="plain" onPress={() => window.print()}>
                            {t("recovery.paper")}
                        </Button>
                        <Button onPress={() => setPrinted(true)} data-testid="recovery-written">
                            {t("recovery.written")}
                        </Button>
                    </div>
                </>
            ) : (
                <>
                    <p>{t("recovery.again")}</p>
                    <div ref={field}>
                        <TextField label={t("recovery.typed")} value={typed} onChange={setTyped} error={error?.field === "passphrase" ? error.message : undefined} autoFocus autoComplete="off" spellCheck="false" maxLength={200} data-testid="recovery-typed" />
                    </div>
                    <ErrorNote>{error && error.field !== "passphrase" ? error.message : undefined}</ErrorNote>
                    <div className="hf-actions">
                        <Button look="plain" onPress={() => setPrinted(false)}>
                            {t("recovery.look")}
                        </Button>
                        <Button type="submit" isPending={busy} isDisabled={!typed.trim()} data-testid="recovery-confirm">
                            {t("recovery.confirm")}
                        </Button>
                    </div>
                </>
            )}
        </form>
    );
}

/** Paper is what a printer gets instead of the page: the passphrase and what one must know who finds it in a safe. */
function Paper({ passphrase, name, server }: { passphrase: string; name: string; server: string }) {
    const [made] = useState(() => new Intl.DateTimeFormat(locale, { dateStyle: "long", timeStyle: "short" }).format(new Date()));
    return createPortal(
        <div className="hf-paper" data-testid="recovery-paper">
            <p>{name}</p>
            <h1>{t("recovery.title")}</h1>
            <p>{t("recovery.of", { server, when: made })}</p>
            <code>{passphrase}</code>
            <p>{t("recovery.for")}</p>
            <p>{t("recovery.how")}</p>
        </div>,
        document.body,
    );
}
