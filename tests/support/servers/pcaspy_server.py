"""The known values, served by pcaspy: EPICS' portable server, of the version before base 7."""

from daqca.sim.lifeline import adopt


def main() -> None:
    settings = adopt()
    from pcaspy import Driver, SimpleServer

    values = settings["values"]
    index, states = values["enum"]
    pvs = {
        "double": {"type": "float", "value": values["double"], "unit": "mm", "prec": 3},
        "long": {"type": "int", "value": values["long"], "unit": "counts"},
        "enum": {"type": "enum", "enums": states, "value": index},
        "string": {"type": "string", "value": values["string"]},
        "char": {"type": "char", "value": values["char"]},
        "waveform": {"type": "float", "count": 16, "value": values["waveform"]},
        "longstring": {"type": "char", "count": 256, "value": values["longstring"]},
    }
    server = SimpleServer()
    server.createPV(settings["prefix"], pvs)

    class Values(Driver):
        """Of a subclass only: those register themselves as the source of the values."""

    # Held: the server keeps no reference that counts.
    driver = Values()
    for ending, pv in pvs.items():
        # Set once more, which clears the alarm "undefined".
        driver.setParam(ending, pv["value"])
    driver.updatePVs()
    while True:
        server.process(0.1)


if __name__ == "__main__":
    main()
