// What was typed and not sent, for each chat. It stays on this device and goes with the session.
const key = (roomId: string): string => `hf.draft.${roomId}`;

export function draftOf(roomId: string): string {
    return localStorage.getItem(key(roomId)) ?? "";
}

/** keepDraft keeps a text, or forgets it when it is empty. */
export function keepDraft(roomId: string, text: string): void {
    if (text.trim()) localStorage.setItem(key(roomId), text);
    else localStorage.removeItem(key(roomId));
}
