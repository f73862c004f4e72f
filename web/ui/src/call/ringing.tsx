// The notice that somebody calls, shown over whatever the person is doing.
import type { MatrixClient, Room } from "matrix-js-sdk";
import { useEffect, useState } from "react";
import { Avatar, Button } from "../design";
import { t } from "../i18n";
import { useRinging } from "./state";
import { playTones } from "./tones";
import "./call.css";

export interface RingingNoticeProps {
    client: MatrixClient;
    /** The room of the call that this browser is in; it does not ring for itself. */
    inCall: string | undefined;
    onAnswer: (room: Room, intent: "audio" | "video") => void;
}

export function RingingNotice({ client, inCall, onAnswer }: RingingNoticeProps) {
    const { ringing, dismiss, refuse } = useRinging(client);
    const [trouble, setTrouble] = useState(false);
    const shown = ringing && ringing.room.roomId !== inCall ? ringing : undefined;
    const loud = shown?.loud === true;
    useEffect(() => (loud ? ring() : undefined), [loud]);
    if (!shown) return null;
    const name = shown.room.getMember(shown.from)?.name ?? shown.from;
    return (
        <div className="call-ring" role="alertdialog" aria-modal="false" aria-labelledby="call-ring-title" data-testid="call-ringing">
            <Avatar name={name} seed={shown.from} />
            <div className="call-ring-text">
                <strong id="call-ring-title">{shown.intent === "audio" ? t("call.rings.audio", { name }) : t("call.rings.video", { name })}</strong>
                {shown.room.name !== name && <span>{shown.room.name}</span>}
                {trouble && <span role="alert">{t("call.declineFailed")}</span>}
            </div>
            <div className="call-ring-actions">
                <Button look="danger" icon="phoneOff" onPress={() => void refuse().catch(() => setTrouble(true))} data-testid="call-decline">
                    {t("call.decline")}
                </Button>
                <Button
                    icon={shown.intent === "audio" ? "phone" : "camera"}
                    data-testid="call-answer"
                    onPress={() => {
                        dismiss();
                        onAnswer(shown.room, shown.intent);
                    }}
                >
                    {t("call.answer")}
                </Button>
            </div>
        </div>
    );
}

// ring plays two soft tones every three seconds until the returned function is called. A browser that has not been
// touched yet stays silent, and then the notice must do.
function ring(): () => void {
    let context: AudioContext | undefined;
    const beep = (): void => {
        context ??= new AudioContext();
        if (context.state !== "running") return void context.resume().catch(() => undefined);
        playTones(context, [[0, 659], [0.28, 523]]);
    };
    try {
        beep();
    } catch {
        return () => undefined; // no sound device
    }
    const timer = setInterval(beep, 3000);
    return () => {
        clearInterval(timer);
        void context?.close();
    };
}
