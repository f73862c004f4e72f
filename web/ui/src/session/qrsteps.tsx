// What both ways of signing in with a QR code show: the code with the steps, and the number to type.
import { useState } from "react";
import { Button, ErrorNote, Spinner, TextField } from "../design";
import { t } from "../i18n";
import type { QrProblem } from "./qr";
import { QrCode } from "./qrcode";

export function ShowCode({ code, steps, onCancel }: { code: Uint8Array | undefined; steps: string[]; onCancel: () => void }) {
    return (
        <div className="hf-pair" data-testid="qr-show">
            <ol>
                {steps.map((s) => (
                    <li key={s}>{s}</li>
                ))}
            </ol>
            <div className="hf-pair-frame">{code ? <QrCode bytes={code} label={t("qr.code")} /> : <Spinner />}</div>
            <p className="hf-hint">{t("qr.own")}</p>
            <div className="hf-actions">
                <Button look="plain" onPress={onCancel} data-testid="qr-cancel">
                    {t("common.cancel")}
                </Button>
            </div>
        </div>
    );
}

// A typing error is forgiven once. Who is asked more often would type whatever helps.
const tries = 2;

/** TypeNumber asks for the number that the other device shows: only there can it be the same if nobody is between. */
export function TypeNumber({ number, onRight, onWrong, onCancel }: { number: string; onRight: () => void; onWrong: () => void; onCancel: () => void }) {
    const [typed, setTyped] = useState("");
    const [left, setLeft] = useState(tries);
    const check = (): void => {
        if (typed.replaceAll(/\D/g, "") === number) return onRight();
        if (left === 1) return onWrong();
        setLeft(left - 1);
        setTyped("");
    };
    return (
        <form
            className="hf-pair"
            onSubmit={(e) => {
                e.preventDefault();
                check();
            }}
        >
            <p>{t("qr.number.text")}</p>
            <TextField label={t("qr.number.label")} value={typed} onChange={setTyped} autoFocus inputMode="numeric" autoComplete="off" maxLength={4} error={left < tries ? t("qr.number.again") : undefined} data-testid="qr-number" />
            <div className="hf-actions">
                <Button look="plain" onPress={onCancel} data-testid="qr-cancel">
                    {t("qr.number.none")}
                </Button>
                <Button type="submit" isDisabled={!/\d/.test(typed)} data-testid="qr-number-go">
                    {t("qr.number.go")}
                </Button>
            </div>
        </form>
    );
}

export function Waiting({ children, onCancel }: { children: React.ReactNode; onCancel?: () => void }) {
    return (
        <div className="hf-pair">
            <p role="status" className="hf-pair-wait">
                <Spinner /> {children}
            </p>
            {onCancel && (
                <div className="hf-actions">
                    <Button look="plain" onPress={onCancel} data-testid="qr-cancel">
                        {t("common.cancel")}
                    </Button>
                </div>
            )}
        </div>
    );
}

export function Ended({ problem, onAgain, onClose }: { problem: QrProblem; onAgain: () => void; onClose: () => void }) {
    return (
        <div className="hf-pair" data-testid="qr-problem" data-problem={problem}>
            <ErrorNote>{t(`qr.problem.${problem}`)}</ErrorNote>
            <div className="hf-actions">
                <Button look="plain" onPress={onClose}>
                    {t("common.close")}
                </Button>
                {problem !== "unsupported" && (
                    <Button onPress={onAgain} autoFocus data-testid="qr-again">
                        {t("qr.again")}
                    </Button>
                )}
            </div>
        </div>
    );
}
