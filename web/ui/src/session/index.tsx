// Session: login, keeping and ending it; shows the chat once there is one.
export default function Session() {
    return null;
}
