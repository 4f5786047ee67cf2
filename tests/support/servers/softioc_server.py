"""The known values, served by pythonSoftIOC."""

import threading

from daqca.sim.lifeline import adopt


def main() -> None:
    settings = adopt()
    import numpy as np
    from softioc import asyncio_dispatcher, builder, softioc

    values = settings["values"]
    index, states = values["enum"]
    builder.SetDeviceName(settings["prefix"].rstrip(":"))
    builder.aOut("double", initial_value=values["double"], EGU="mm", PREC=3)
    builder.longOut("long", initial_value=values["long"], EGU="counts")
    builder.mbbOut("enum", *states, initial_value=index)
    builder.stringOut("string", initial_value=values["string"])
    builder.WaveformOut("char", initial_value=np.array([values["char"]], np.uint8), length=1)
    builder.WaveformOut("waveform", initial_value=np.array(values["waveform"]), length=16)
    builder.longStringOut("longstring", initial_value=values["longstring"], length=256)
    builder.LoadDatabase()
    softioc.iocInit(asyncio_dispatcher.AsyncioDispatcher(), enable_pva=False)
    threading.Event().wait()


if __name__ == "__main__":
    main()
