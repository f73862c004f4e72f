// "Link a device": this device shows a QR code, a new phone or computer scans it, is signed in, and gets the keys.
import { useCallback, useEffect, useRef, useState } from "react";
import { isSignInWithQRAvailable } from "matrix-js-sdk/lib/rendezvous";
import { Button, Dialog, Spinner } from "../design";
import { t } from "../i18n";
import { Linking, QrError, type QrProblem } from "../session/qr";
import { Ended, ShowCode, TypeNumber, Waiting } from "../session/qrsteps";
import { useChat, useSecurity } from "./context";

type State =
    | { at: "checking" }
    /** This device has not got the keys that it would have to hand on. */
    | { at: "unconfirmed" }
    | { at: "show"; code?: Uint8Array }
    | { at: "number"; page: string }
    | { at: "agree"; page: string }
    | { at: "done" }
    | { at: "ended"; problem: QrProblem };

export default function LinkDevice({ onClose, onConfirm, onLinked }: { onClose: () => void; onConfirm: () => void; onLinked: () => void }) {
    const { client } = useChat();
    const { phase } = useSecurity();
    const [state, setState] = useState<State>({ at: "checking" });
    const linking = useRef<Linking>(undefined);

    const begin = useCallback(async () => {
        linking.current?.cancel();
        const mine = new Linking(client);
        linking.current = mine;
        const show = (s: State): void => {
            if (linking.current === mine) setState(s);
        };
        show({ at: "show" });
        try {
            show({ at: "show", code: await mine.open() });
            show({ at: "number", page: await mine.scanned() });
        } catch (e) {
            console.warn("linking a device", e);
            show({ at: "ended", problem: e instanceof QrError ? e.kind : "failed" });
        }
    }, [client]);

    // Ready to begin when this device is known to have the keys.
    useEffect(() => {
        if (state.at !== "checking" || phase === "checking") return;
        let gone = false;
        const check = async (): Promise<State | undefined> => {
            if (!(await isSignInWithQRAvailable(client))) return { at: "ended", problem: "unsupported" };
            const keys = (await client.getCrypto()!.getCrossSigningStatus()).privateKeysCachedLocally;
            if (phase === "confirm" || !keys.masterKey || !keys.selfSigningKey || !keys.userSigningKey) return { at: "unconfirmed" };
            return undefined;
        };
        check().then(
            (s) => {
                if (gone) return;
                if (s) setState(s);
                else void begin();
            },
            () => gone || setState({ at: "ended", problem: "failed" }),
        );
        return () => {
            gone = true;
        };
    }, [state.at, phase, client, begin]);
    // Closed in whatever way, the code is of no more use.
    useEffect(
        () => () => {
            linking.current?.cancel();
            linking.current = undefined;
        },
        [],
    );

    const agree = async (page: string): Promise<void> => {
        const mine = linking.current!;
        setState({ at: "agree", page });
        try {
            await mine.share();
            if (linking.current !== mine) return;
            setState({ at: "done" });
            onLinked();
        } catch (e) {
            console.warn("linking a device", e);
            if (linking.current === mine) setState({ at: "ended", problem: e instanceof QrError ? e.kind : "failed" });
        }
    };
    const end = (problem: QrProblem): void => {
        linking.current?.cancel();
        linking.current = undefined;
        setState({ at: "ended", problem });
    };
    let body: React.ReactNode;
    switch (state.at) {
        case "checking":
            body = <Spinner />;
            break;
        case "unconfirmed":
            body = (
                <>
                    <p>{t("qr.link.unconfirmed")}</p>
                    <div className="hf-actions">
                        <Button look="plain" onPress={onClose}>
                            {t("common.close")}
                        </Button>
                        <Button onPress={onConfirm} data-testid="qr-confirm-first">
                            {t("security.confirm.do")}
                        </Button>
                    </div>
                </>
            );
            break;
        case "show":
            body = <ShowCode code={state.code} steps={[t("qr.link.step1"), t("qr.link.step2"), t("qr.link.step3")]} onCancel={onClose} />;
            break;
        case "number":
            body = <TypeNumber number={linking.current?.number ?? ""} onRight={() => void agree(state.page)} onWrong={() => end("number")} onCancel={() => end("number")} />;
            break;
        case "agree":
            body = (
                <>
                    <p>{t("qr.link.agree")}</p>
                    <a className="hf-button hf-button--wide" href={state.page} target="_blank" rel="noopener" data-testid="qr-agree">
                        {t("qr.link.agreeOpen")}
                    </a>
                    <Waiting onCancel={onClose}>{t("qr.link.waiting")}</Waiting>
                </>
            );
            break;
        case "done":
            body = (
                <>
                    <p className="hf-note hf-note--ok" data-testid="qr-done">
                        {t("qr.link.done")}
                    </p>
                    <div className="hf-actions">
                        <Button onPress={onClose} autoFocus>
                            {t("common.done")}
                        </Button>
                    </div>
                </>
            );
            break;
        case "ended":
            body = <Ended problem={state.problem} onAgain={() => setState({ at: "checking" })} onClose={onClose} />;
    }
    return (
        <Dialog title={t("qr.link.title")} isOpen onClose={onClose} data-testid="link-dialog">
            {body}
        </Dialog>
    );
}
