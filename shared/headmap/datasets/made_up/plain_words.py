"""Words of plain pages, in English and ASCII."""

from __future__ import annotations

FIRST_NAMES = tuple(
    """Anna Peter Maria John Linda David Susan Paul Karen Mark Laura James Emma Daniel Sofia Lucas Alice Henry Julia
    Thomas Clara Oliver Nina Victor Grace Samuel Helen Martin Rosa Simon Diana George Irene Frank Monica Edward
    Teresa Walter Sara Hugo""".split()
)
LAST_NAMES = tuple(
    """Smith Miller Johnson Brown Garcia Davis Wilson Martinez Anderson Taylor Moore Jackson White Harris Clark Lewis
    Walker Young King Wright Scott Green Baker Adams Nelson Hill Campbell Mitchell Roberts Carter Phillips Evans Turner
    Parker Collins Edwards Stewart Morris Rogers Reed""".split()
)
CITIES = tuple(
    """London Paris Berlin Madrid Rome Vienna Prague Dublin Lisbon Oslo Stockholm Athens Warsaw Boston Chicago Denver
    Seattle Austin Dallas Toronto Sydney Tokyo Cairo Lima Bogota Geneva Hamburg Munich Milan Porto""".split()
)
STREETS = (
    "Main Street",
    "Park Avenue",
    "Oak Street",
    "Church Road",
    "Station Road",
    "Mill Lane",
    "High Street",
    "River Road",
    "Garden Street",
    "Lake View",
    "Hill Road",
    "Market Square",
    "King Street",
    "School Lane",
    "West Street",
)
COMPANIES = (
    "Northwind Traders",
    "Acme Corp",
    "Global Foods",
    "Blue Ocean",
    "Silver Line",
    "Green Valley",
    "Delta Systems",
    "Summit Bank",
    "Harbor Press",
    "Bright Energy",
    "Union Steel",
    "Royal Motors",
)
DEPARTMENTS = tuple("Sales Finance Marketing Research Support Legal Logistics Design Security Training".split())
STATES = tuple("Open Closed Pending Approved Rejected Paid Cancelled Active Draft Overdue".split())
SHOPS = (
    "Corner Shop",
    "Fresh Market",
    "City Bakery",
    "Sunny Cafe",
    "Book House",
    "Garden Center",
    "Tool Box",
    "Happy Pets",
    "The Tea Room",
    "Super Store",
    "Fish and Chips",
    "Old Mill Inn",
)
GOODS = (
    *"""Coffee Tea Bread Butter Milk Cheese Apples Bananas Tomatoes Potatoes Rice Pasta Sugar Salt Honey Chocolate Eggs
    Juice Water Soup Salad Chicken Beef Fish Soap Paper Pencil Candle Batteries Umbrella Notebook Scissors Hammer
    Flowers Cookies Yogurt Onions Carrots Lemons Pepper""".split(),
    "Orange juice",
    "Ice cream",
    "Olive oil",
    "Green tea",
    "Apple pie",
    "Light bulb",
)
NOTE_WORDS = tuple(
    """meeting report garden window summer winter river mountain letter picture music dinner travel station coffee paper
    school teacher student morning evening table kitchen bridge forest island market number person question answer story
    history science nature engine doctor family friend animal color green silver golden little quick early bright quiet
    simple strong""".split()
)
