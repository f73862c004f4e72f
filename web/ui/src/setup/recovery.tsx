// The recovery passphrase of the data partition: shown once, printed, and typed again from the paper before it counts.
import { useState } from "react";
import { Button, CopyButton, ErrorNote, TextField } from "../design";
import { t } from "../i18n";
import { ApiError, api, messageOf } from "./api";

/** Recovery leads through it. base is "/api/setup/recovery" or the console's. */
export function Recovery({ base, name, onDone }: { base: string; name: string; onDone: () => void }) {
    const [passphrase, setPassphrase] = useState<string>();
    const [printed, setPrinted] = useState(false);
    const [typed, setTyped] = useState("");
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<ApiError>();
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
                    <TextField label={t("recovery.typed")} value={typed} onChange={setTyped} error={error?.field === "passphrase" ? error.message : undefined} autoFocus autoComplete="off" spellCheck="false" maxLength={200} data-testid="recovery-typed" />
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
