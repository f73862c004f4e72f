// The call in a chat: hosts the call widget. The chat mounts CallView in one place for as long as the call
// lasts and moves it by CSS only, for an iframe that moves in the document reloads.
import type { MatrixClient, Room } from "matrix-js-sdk";

export interface CallViewProps {
    client: MatrixClient;
    room: Room;
    /** What to start with; joining a running call ignores it. */
    intent: "audio" | "video";
    /** Called once when the person has left or the call could not start. */
    onEnd: () => void;
}

export default function CallView(_props: CallViewProps) {
    return null;
}
