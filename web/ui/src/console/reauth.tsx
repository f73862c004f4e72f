// Asks a person to prove anew who they are, in a window of its own: what they typed here stays, and goes on.
import { useEffect, useState } from "react";
import { Button, Dialog } from "../design";
import { t } from "../i18n";
import { onReauth } from "../setup/api";

/** The page that the window ends at tells it here. */
const channel = "holdfast-reauth";

export function Reauth() {
    const [done, setDone] = useState<(ok: boolean) => void>();
    useEffect(() => {
        onReauth(() => new Promise((ok) => setDone(() => ok)));
        return () => onReauth(undefined);
    }, []);
    const finish = (ok: boolean) => {
        done?.(ok);
        setDone(undefined);
    };
    useEffect(() => {
        if (!done) return;
        const c = new BroadcastChannel(channel);
        c.onmessage = () => {
            done(true);
            setDone(undefined);
        };
        return () => c.close();
    }, [done]);
    return (
        <Dialog title={t("console.reauth.title")} isOpen={!!done} onClose={() => finish(false)} data-testid="reauth">
            <p>{t("console.reauth.text")}</p>
            <div className="hf-actions">
                <Button look="plain" onPress={() => finish(true)} data-testid="reauth-done">
                    {t("console.reauth.done")}
                </Button>
                <Button onPress={() => void window.open("/reauth?next=%2Freauth%2Fdone", "_blank", "popup,width=520,height=760")} autoFocus data-testid="reauth-open">
                    {t("console.reauth.open")}
                </Button>
            </div>
        </Dialog>
    );
}
