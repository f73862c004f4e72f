// Signing in with a QR code: this browser shows it, a phone that is signed in scans it and sends the keys along.
import { useCallback, useEffect, useRef, useState } from "react";
import { t } from "../i18n";
import { Joining, QrError, type QrProblem } from "./qr";
import { Ended, ShowCode, TypeNumber, Waiting } from "./qrsteps";
import type { Secrets } from "./security";

type State = { at: "show"; code?: Uint8Array } | { at: "number" } | { at: "waiting"; userCode: string } | { at: "ended"; problem: QrProblem };

export default function QrSignIn({ onDone, onCancel }: { onDone: (secrets: Secrets | undefined) => void; onCancel: () => void }) {
    const [state, setState] = useState<State>({ at: "show" });
    const joining = useRef<Joining>(undefined);
    // run goes one step; whatever fails ends it, unless it was given up meanwhile.
    const run = useCallback(async (mine: Joining, step: (show: (s: State) => void) => Promise<void>) => {
        const show = (s: State): void => {
            if (joining.current === mine) setState(s);
        };
        try {
            await step(show);
        } catch (e) {
            console.warn("signing in with a QR code", e);
            show({ at: "ended", problem: e instanceof QrError ? e.kind : "failed" });
        }
    }, []);
    const begin = useCallback(() => {
        joining.current?.cancel();
        const mine = new Joining();
        joining.current = mine;
        void run(mine, async (show) => {
            show({ at: "show" });
            show({ at: "show", code: await mine.open() });
            await mine.scanned();
            show({ at: "number" });
        });
    }, [run]);
    useEffect(() => {
        begin();
        return () => {
            joining.current?.cancel();
            joining.current = undefined;
        };
    }, [begin]);
    const go = (): void => {
        const mine = joining.current!;
        void run(mine, async (show) => {
            show({ at: "waiting", userCode: "" });
            show({ at: "waiting", userCode: await mine.ask() });
            const secrets = await mine.finish();
            if (joining.current === mine) onDone(secrets);
        });
    };
    const end = (problem: QrProblem): void => {
        joining.current?.cancel();
        joining.current = undefined;
        setState({ at: "ended", problem });
    };
    switch (state.at) {
        case "show":
            return <ShowCode code={state.code} steps={[t("qr.signIn.step1"), t("qr.signIn.step2"), t("qr.link.step3")]} onCancel={onCancel} />;
        case "number":
            return <TypeNumber number={joining.current?.number ?? ""} onRight={go} onWrong={() => end("number")} onCancel={() => end("number")} />;
        case "waiting":
            return (
                <>
                    <Waiting onCancel={onCancel}>{t("qr.signIn.waiting")}</Waiting>
                    {state.userCode && <p className="hf-hint">{t("qr.signIn.userCode", { code: state.userCode })}</p>}
                </>
            );
        case "ended":
            return <Ended problem={state.problem} onAgain={begin} onClose={onCancel} />;
    }
}
