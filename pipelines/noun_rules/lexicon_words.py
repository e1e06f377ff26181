"""Word lists of the `lexicon` rule: what English words do in a caption when they are not plainly nouns.

Drawn up from the captions of Conceptual Captions' validation set and from general knowledge of English.
COCO's captions, on which the rule is measured, were not looked at. No word stands in two lists.
"""

LEXICON_VERSION = "1"
"""Changes with every change of a list below or of a rule in lexicon.py, since they decide rows."""

# A noun follows sooner or later.
DETERMINERS = """
a all an another any billion both each eight eighteen eighth eighty either eleven every few fifteen fifth
fifty first five forty four fourteen fourth half her his hundred its last least less many million more most
much my neither next nine nineteen ninety ninth no one other our own same second seven seventeen seventh
seventy several six sixteen sixth sixty some such ten tenth that the their these third thirteen thirty this
those thousand three twelve twenty two various what whatever which whose your
"""

# Prepositions and the conjunctions that open a clause.
PREPOSITIONS = """
aboard about above across after against along alongside although amid amidst among amongst around as at atop
because before behind below beneath beside besides between beyond by despite down during except for from if
in inside into like near nearby of off on onto opposite out outside over past per plus since than though
through throughout till toward towards under underneath unless unlike until unto up upon via vs whereas
whether while whilst with within without
"""

PRONOUNS = """
he hers herself him himself how i i'm it itself me mine myself oneself ourselves she theirs them themselves
there they us we when whenever where wherever who whoever whom why you yours yourself
"""

# A verb or an adjective follows.
AUXILIARIES = """
am are be been being can cannot could did do does done get gets getting gonna got gotten had has have having
is let lets may might must not ought shall should to wanna was were will would
"""

CONJUNCTIONS = "also and but et nor or so yet"

ADVERBS = """
abroad again ago ahead airborne alike almost alone already alright always anymore anyway anywhere apart
ashore aside asleep away awhile backward backwards barefoot beforehand downhill downward downwards else
elsewhere enough even ever everywhere far farther fast forever forth forward forwards further furthermore
hence here however indoors instead inward just later likewise maybe meanwhile midair mostly never
nevertheless now nowhere offshore often once only onstage onward otherwise outward overall overboard overhead
perhaps pretty quite rather really regardless seldom sideways simply somehow sometimes somewhat somewhere
soon still straight then thereby therefore thus together tonight too twice underfoot underway upright upside
upstairs upward upwards usually very well whatsoever worldwide
"""

# Forms of irregular verbs that are never nouns.
IRREGULAR_VERBS = """
ate beaten became become becomes began begin begins begun bent bit bitten bled blew blown born bought bound
broke broken brought built burnt came caught chose chosen clad clung crept dealt drank drawn drew driven
drove drunk dug eat eaten eating eats fallen fed feels fell felt flew flown forbidden forgot forgotten fought
found froze frozen gave give given gives go goes gone grew grown heard held hid hidden hung hurt kept knelt
knew know known knows laid lain leant learnt led left lent lit lost made make makes mean means meant met mown
paid proven put puts ran rang ridden risen rode said sang sank sat saw seen sent sewn shaken shod shone shook
shorn shot shown shrunk shut slept slid slung sold sought sown spent spilt split spoke spoken spread sprung
spun stole stolen stood strewn struck stuck stung sung sunk swam swept swollen sworn swum swung take taken
takes taught tell tells think thinks thought threw thrown told took tore torn understood upset wear wears
went woke woken won wore worn woven written wrote
"""

# Regular verbs, as they stand and with -s, that captions do not use as nouns.
FINITE_VERBS = """
accept accepts accompanies accompany achieve achieves acknowledge adapt add adds adjust adjusts admire
admires admit adopt adorn adorns affect agree agrees allow allows amaze announce announces anticipate appear
appears applies apply appreciate arrange arranges arrive arrives ascend ascends ask asks assemble assembles
assist attach attaches attend attends attract avoid await awaits baste begs behave believe belong belongs
blend blends boast boasts borrow bounce bounces breathe brighten bring brings browse build builds bury buy
carries carry celebrate celebrates check chew chews choose chooses clap cling clings collect collects come
comes compare compete competes complete completes concentrate concentrates conduct conducts confront connect
connects consider consist consists construct consume consumes contain contains continue continues contribute
converse converses create creates cultivate decide decides decorate decorates deliver delivers demonstrate
demonstrates depart departs depend depends depict depicts descend descends describe describes destroy
determine develop devour devours die dies dig digs dine dines direct disappear disappears discover discovers
discuss discusses dismount distribute download doze dozes drag drags dwell emerge emerges emit enclose
encounter encourage enjoy enjoys ensure enter enters entertain entertains erupt escape escapes establish
examine examines exist exists expect explain explains explore explores express extend extends extinguish feed
feeds fetch fill fills find finds flock flocks focuses follow follows forage forages forget gather gathers
gaze gazes glare glares glide glides graze grazes grow grows guess happen happens hear hears helps hide hides
hold holds hops hover hovers illuminate illuminates imagine imitate improve include includes indicate
indicates inspect inspects inspire install interact interacts introduce introduces invade investigate invite
involve join joins keep keeps kneel kneels lay lays lead leads leans leap leaps learn learns lick licks
listen listens lives lose lounges maintain manage marry meander meanders meet meets migrate miss munch
munches navigate navigates nestle nestles nibble nibbles notice nurse obey observe observes obtain occupies
occupy offer offers operate operates organise organize overlook overlooks owns participate participates peeks
peel peer peers perch perches ponder prance prefer prepare prepares preserve prevent proceed proceeds
produces promote protect protects protrude protrudes prove provide provides pulls pursue pursues pushes raise
raises react reacts reads realise realize receive receives recline reclines recommend recover reduce reflect
reflects refuse relax relaxes remain remains remember remind reminds remove removes repairs replace represent
represents require requires resemble resembles reside retrieve retrieves reveal reveals rid rises roam roams
say says see seem seems sees select sell sells send sends separate serve serves shares shove skate sleeps
snuggle snuggles soar soars spell spend spends sprawl squat squats stare stares stay stays steer sticks
strengthen stretches strolls strut stumble submerge suggest surround surrounds swims tastes teach teaches
tend tends thank transports understand unload untie utilise utilize wade wades wait wander wanders want wants
warn weave weaves weigh write writes yawn yawns
"""

ADJECTIVES_OF_SIZE = """
big bigger biggest broad bulky colossal deep deeper deepest double dual enormous entire extensive extra fat
full gigantic grand great greater greatest heavier heavy high higher highest huge immense jumbo large larger
largest lengthy little littler long longer longest loose low lower lowest massive miniature multiple narrow
numerous oversized petite shallow short shorter shortest single skinny slender slim small smaller smallest
sparse steep substantial tall taller tallest thick thicker thin tight tiniest tiny towering triple vast whole
wide wider widest
"""

ADJECTIVES_OF_LOOKS = """
abstract adorable aerial aged attractive awesome bald bare beautiful blank bleak blond blurry bold bright
brighter brightest brilliant bumpy busy cheesy chic classic classy clean clear close cloudy colored colorful
coloured colourful cool creamy crispy crooked crunchy curly curvy cute decorative delicious dim dirty drab
dressy dry dusty eclectic elaborate elegant empty exotic faded fancy fantastic fine fit flat floppy floral
fluffy foggy fragrant fresh frilly furry fuzzy geometric glamorous gloomy glossy golden good gorgeous gothic
graceful grassy greasy grimy gritty grubby hairy handsome hazy hilly horizontal icy impressive intricate
isolated jagged juicy lacy leafy lovely lush luxurious magnificent majestic meaty messy minimal misty modern
monochrome muddy multicolored multicoloured murky naked neat nude old older oldest opaque ornate pale
patterned picturesque plain pointed pointy polished quaint rainy raw ripe rocky rough rugged rural rustic
rusty sandy scenic shabby shady shaggy shaped sharp sheer shiny sleek slick smart smooth snow-covered snowy
soft spacious sparkly spectacular spiky stale stormy striped stunning stylish sunny tasty tattooed tidy
tinted transparent trendy tropical ugly unique unusual urban vertical vibrant visible vivid warm wavy wet
wild windy wooded wooden woolly young younger youngest yummy
"""

ADJECTIVES_OF_KIND = """
able academic active actual additional administrative agricultural alive alternative amazing ancient angry
annual apparent appropriate architectural artificial artistic athletic atomic automatic available average
awake aware awful backlit bad basic best better biological blind botanical brave brief calm capable careful
casual central certain cheap chemical civil clever closer coastal cold colonial comfortable commercial common
compact complex confident contemporary convenient convertible corporate correct cosy cozy crazy creative
criminal cultural curious current daily dangerous dead dear decent delicate dense dental different difficult
digital distant domestic dramatic due durable dutch eager earlier early easier eastern easy economic edible
educational elderly electric electrical electronic elementary elite emotional environmental essential ethnic
evil exact excellent exclusive expensive external extreme fair faithful false familiar famous far-off
fashionable favorite favourite federal fellow feminine festive fictional final financial fond foreign formal
former fortunate free frequent friendly frigid functional funky funny furious general generic gentle genuine
geographical giant glad global governmental graphic grateful guilty handmade happy hard harder hardy healthy
hilarious historic historical holy homeless homemade honest hot hotter hottest humid hungry hybrid ideal
identical ill imaginary important impossible incomplete independent individual industrial inflatable informal
inner innocent instant intelligent intense internal international intimate joint joyful junior large-scale
lasting late latest lazy left-hand legal legendary lesser likely linear literary live lively local lone
lonely loud loyal lucky mad magical main major manual maritime married mature mechanical medical medieval
medium memorable mental mere metallic military mini minimalist minor mixed mobile moderate more-or-less
mountainous musical mutual mysterious natural nautical naval necessary nervous neutral new newborn newer
newest nice noble noisy normal northern notable novel nuclear obvious odd ok okay online open operational
optical ordinary organic oriental original outdoor outer outstanding overgrown painful panoramic particular
patriotic peaceful perfect permanent personal pharmaceutical photographic physical playful pleasant polar
polite political poor popular portable positive possible potential powerful practical precious precise
pregnant prehistoric premium presidential previous primary prime primitive prior private pro probable
professional prominent promotional proper proud psychedelic public pure quick quiet random rapid rare ready
real realistic recent regional regular related relative relevant reliable religious remote residential
responsible retail rich right romantic royal rude sacred sad safe sane satisfied scared scary scientific
seamless seasonal secondary secret secure semi senior serious severe sexy shy sick significant silent silly
similar simple sincere skilled sleepy slow social solar sole solitary solo southern spare special specific
spicy spiritual stable standard static stationary steady strange stray strict strong stupid successful sudden
suitable super superb superior sure surgical sweet swift symbolic temporary terrible theatrical thirsty
thoughtful timeless tired total traditional tragic tribal true typical ultimate unable underground underwater
unfinished unhappy unidentified universal unknown unlikely upcoming upper useful usual vacant vague valuable
varied vegetarian verbal virtual visual warmer weak wealthy weekly weird welcome western wheeled wicked
willing wise wonderful worse worst worth worthy wrong youthful
"""

ADJECTIVES_OF_ORIGIN = """
african american arab arabian arctic argentine armenian asian australian austrian belgian brazilian british
bulgarian canadian caribbean caucasian celtic chinese christian colombian croatian cuban czech danish
egyptian english ethiopian european finnish french german greek hawaiian hindu hispanic hungarian icelandic
indian indonesian iranian iraqi irish islamic israeli italian jamaican japanese jewish kenyan korean latin
malaysian mediterranean mexican mongolian moroccan muslim nepalese norwegian pakistani persian peruvian
philippine polish portuguese romanian russian scandinavian scottish serbian spanish swedish swiss syrian thai
tibetan turkish ukrainian venetian victorian vietnamese welsh
"""

# Adjectives before a noun, nouns elsewhere: colours, sides, materials.
NOUNS_OR_ADJECTIVES = """
adult amber animal antique aqua back beige black blonde blue bottom brown burgundy comic coral crimson custom
dark east everyday exterior fake faux female front gray green grey human indoor interior ivory khaki light
lilac lime magenta male maroon mid middle missing native navy neon north official olive olympic overnight
pink plaid plush present purple rear red scarlet side ski solid south square tan teal teen teenage top twin
vegan vintage violet west white wool yellow
"""

# Nouns or verbs, as they stand and with -s: the neighbours decide.
NOUNS_OR_VERBS = """
address aim answer approach arm attack attempt balance bark bat bath bathe beat bend bite blow bow bowl box
brake brand break breed brush bump burn buzz cake call camp care carve cast catch cause challenge change
charge chase chat cheer chip claim clash click climb comb control cook copy cost couple cover crack crash
crawl cross crowd crown cruise cry cure curl curve cut cycle dance dash deal decline demand design desire dip
display dive dock dot doubt draw dream dress drift drink drive drop dust ease echo edge embrace end estimate
excuse exercise exhibit exit experience face fall fan farm fashion fear feature feel fence fight figure file
finish fire fix flag flash flip float flood flow fly fold force form frame freeze frost fry function gesture
glow glue grab grade greet grill grin grip ground guard guide hang harvest head heat help hike hit hop hope
host hug hunt hurry imprint increase influence issue jam jog joke judge juggle jump kick kiss knock label
lace land laugh launch lean leave lie lift limit link list load lock look loop lounge love mail march mark
mask match matter measure melt mirror mix mop mount move name nap need nest note number object pack pad
paddle paint parade park pass paste pat patch patrol pause pay peak peek perform phone photograph pick pilot
pitch place plan play point pool pop pose position post pour praise pray press price print process produce
progress promise protest puff pull pump punch purchase push question rain rally range rank reach read record
release rent repair repeat reply report request rescue respect rest result return review reward ride rip rise
rock roll row rub ruin rule run rush sail sample scan scare score scratch scream screen search seat sense
sentence set shade shadow shake shape shelter shield shift shine ship shop shout show shower sign signal sink
sit sketch skip slam sleep slice slide slip slope smash smell smile smoke snack snap snow soak sort sound
speak spin splash spot spray sprint squeeze stack staff stage stain stamp stand start steam step stick stir
stitch stock stop store strap stream stress stretch strike strip stroke stroll struggle study suit supply
support surf surprise sweep swim swing switch tag talk tap target taste tear tease test thread throw thrust
tie tilt tip toast touch tour tow track trade trail train transfer transform transport trap travel treat
trick trim trip trust try tumble turn twist use value vary view visit voice vote walk wash waste watch wave
whisper wish wonder work worry wrap wreck yell zip zoom
"""

# Other words in -ing are taken for participles.
NOUNS_IN_ING = """
advertising anything awning bedding beginning blessing bowling boxing branding briefing broadcasting building
bunting carving casing catering ceiling cladding clearing clothing clubbing coating decking dining drawing
duckling dumpling dwelling earring engineering engraving etching evening everything farming feeling fencing
fishing fitting flooring frosting gathering greeting grouping handwriting hearing housing icing inning
jogging king landing landscaping layering lettering lighting lightning listing living manufacturing marketing
marking meaning meeting morning nothing nursing offering opening outing packaging painting paneling panelling
parking paving piercing piping planting plumbing publishing pudding railing rating recording rendering
rigging ring roofing scaffolding seating seedling setting sewing shelving shipping shopping sibling siding
sling something spring starling sterling stocking string stuffing surroundings swimming thing tiling topping
training upholstering viewing wedding wing wiring wrapping
"""

# Other words in -ed are taken for participles.
NOUNS_IN_ED = """
bed bloodshed creed deed flatbed hotbed kindred newlywed newsfeed reed reindeed riverbed seaweed seed shed
sled speed steed swed toolshed tweed waterbed watershed weed
"""

# Other words in -ly are taken for adverbs.
NOUNS_IN_LY = """
ally anomaly assembly belly bully butterfly doily dragonfly family filly firefly gully holly homily italy
jelly july lily monopoly ply potbelly tally trolley underbelly waterlily
"""

# Other words with the endings of this list and the next four are taken for adjectives.
NOUNS_IN_AL = """
approval arrival burial canal cannibal capital carnival cathedral cereal charcoal coal crystal decal dial
editorial equal festival foal funeral goal hospital interval jackal journal material medal memorial metal
mineral mural oval pal pedal petal portal principal proposal rehearsal removal renewal rental revival rival
rosary sandal scandal seal spiral survival terminal trial tutorial urinal vandal vial
"""

NOUNS_IN_IC = """
arithmetic attic ceramic clinic critic cynic ethic fabric lyric magic mechanic medic mosaic music panic
paramedic picnic plastic relic republic skeptic tactic topic traffic tunic
"""

NOUNS_IN_IVE = """
archive detective executive hive incentive initiative jive locomotive motive narrative negative perspective
representative
"""

NOUNS_IN_OUS_FUL_BLE = """
armful bible cable constable fistful handful mouthful spoonful syllable table timetable turntable variable
vegetable
"""

NOUNS_IN_ISH = """
catfish crayfish dish fetish fish garnish goldfish jellyfish parish radish relish rubbish starfish swordfish
"""
