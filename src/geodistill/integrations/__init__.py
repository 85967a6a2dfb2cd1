"""The same geometry terms inside other people's trainers; each module needs its library only when it is used."""
