"""The known values, served by caproto."""

from daqca.sim.lifeline import adopt


def main() -> None:
    settings = adopt()
    import caproto
    from caproto.asyncio.server import run

    prefix, values = settings["prefix"], settings["values"]
    index, states = values["enum"]
    channels = {
        "double": caproto.ChannelDouble(value=values["double"], units="mm", precision=3),
        "long": caproto.ChannelInteger(value=values["long"], units="counts"),
        "enum": caproto.ChannelEnum(value=states[index], enum_strings=states),
        "string": caproto.ChannelString(value=values["string"], string_encoding="latin-1"),
        "char": caproto.ChannelByte(value=bytes([values["char"]]), max_length=1),
        "waveform": caproto.ChannelDouble(value=values["waveform"], max_length=16),
        "longstring": caproto.ChannelChar(value=values["longstring"], max_length=256),
    }
    run({prefix + name: channel for name, channel in channels.items()}, interfaces=["127.0.0.1"], log_pv_names=False)


if __name__ == "__main__":
    main()
